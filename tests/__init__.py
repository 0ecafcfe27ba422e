"""A package, so that processes started by tests find it: torch-fidelity installs another one of this name."""
