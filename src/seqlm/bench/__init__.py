"""Timing of cells, engines and training steps beside torch's own kernels."""
