"""Configs of motion."""
