"""Models: what turns tokens into predictions."""
