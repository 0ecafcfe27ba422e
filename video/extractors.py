"""Extractors of clips that need published weights; the default's own is in `video.stand_in`."""
