"""Preparing a folder in the format of HumanML3D: clips, statistics, captions, splits."""
