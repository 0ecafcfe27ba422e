"""The motion data sets."""
