"""Rendered scenes: their classes, where things lie in them, the solids, and the ray caster that makes pictures."""
