"""What one large GPU makes of training and sampling: checks, timings and runs under a budget of time."""
