"""Procedural motion of the 22-joint skeleton: gaits, gestures, jumps and what a body does on the spot, with captions."""
