"""Autoencoders of clips: images' frame by frame, Wan's, our own, coding in pieces, and what is checked of them."""
