"""Comparisons of runs as a page that loads nothing from anywhere, and the way to matplotlib for all other pictures."""
