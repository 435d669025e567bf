"""A run on disk: who writes what, and what may be believed."""
