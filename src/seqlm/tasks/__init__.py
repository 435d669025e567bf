"""One file per task: loss, metrics, and what is shown."""
