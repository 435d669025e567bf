"""Batches: contiguous streams of a text, or whole sequences of like length."""
