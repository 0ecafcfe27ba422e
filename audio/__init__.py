"""Sound: notes, folders of music and MTG-Jamendo with SiT over time."""
