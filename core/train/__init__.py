"""The training loop and what serves it: optimizer, averages, saved state, records, speed."""
