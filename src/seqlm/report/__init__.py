"""Comparisons of runs as a page: one file that loads nothing from anywhere."""
