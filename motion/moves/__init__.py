"""Procedural motion of the 22-joint skeleton, with captions: gaits, gestures, jumps, and more on the spot."""
