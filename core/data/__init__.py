"""From files to batches: finding and indexing media files, the endless stream of samples, bytes of pixels."""
