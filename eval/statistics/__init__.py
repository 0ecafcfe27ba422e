"""Pure functions from features to one number: Fréchet and kernel distance, precision and recall, diversity."""
