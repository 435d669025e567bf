"""Configurations: the typed trunk, composing, building, saving."""
