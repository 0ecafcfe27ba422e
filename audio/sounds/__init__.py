"""Sound itself: samples, files, loudness, spectra, synthesis."""
