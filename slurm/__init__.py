"""Sweeps of training runs on a SLURM cluster, or on this machine."""
