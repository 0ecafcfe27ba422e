"""Where clips come from: moving digits, and the format that all clips are brought to."""
