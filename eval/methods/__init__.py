"""Matched runs of several methods and their comparison."""
