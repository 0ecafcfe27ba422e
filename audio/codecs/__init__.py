"""Autoencoders of sound: the spectral codec, Stable Audio's, our own, and coding in chunks."""
