"""Many runs from one command: which jobs there are and how they stand (plan), and who runs them (launcher)."""
