"""The training loop, its state, gradients, logs and signals."""
