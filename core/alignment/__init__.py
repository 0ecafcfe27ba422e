"""Alignment methods and what they listen with: the contract, hooks, token arithmetic, one file a method."""
