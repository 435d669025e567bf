"""Where text and examples come from, and how they become batches."""
