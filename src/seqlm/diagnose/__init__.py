"""Diagnostics of recurrence: gradients through time, matrices, gates, and how much context a model uses."""
