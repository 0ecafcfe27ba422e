"""Where clips come from: synthesised notes, folders of files, MTG-Jamendo."""
