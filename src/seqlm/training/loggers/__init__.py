"""Logs of a run: metrics.jsonl, which every run has (run_logger), and the back ends that a config chooses (base)."""
