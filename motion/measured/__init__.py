"""Clips that are measured: samples of a run, samples given in others' formats, and real motion of a data set."""
