"""Keys of the study and of its page."""
