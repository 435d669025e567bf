"""Scoring a split, and adapting to it while it is scored."""
