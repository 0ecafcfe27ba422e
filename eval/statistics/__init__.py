"""Pure functions from features to numbers: Fréchet and kernel distance, precision and recall, diversity."""
