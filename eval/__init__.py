"""Measures that papers share; features in, number out."""
