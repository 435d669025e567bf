"""Jobs that SLURM runs: written as batch scripts, submitted, requeued by themselves, and asked how they stand."""
