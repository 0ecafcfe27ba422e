"""What lies on the disk: atomic files, checkpoints, weights, the run's folder, lines of records."""
