"""Image autoencoders of our own."""
