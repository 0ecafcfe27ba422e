"""Where clips come from: moving digits, folders of files and of frames, and the format that all of them are brought to."""
