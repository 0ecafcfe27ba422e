"""The mathematics: paths between noise and data, the training objective, solvers and the sampler."""
