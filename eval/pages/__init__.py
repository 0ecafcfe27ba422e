"""Tables and self-contained HTML pages of runs and comparisons."""
