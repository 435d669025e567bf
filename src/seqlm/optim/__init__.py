"""Learning-rate schedules and averages of the weights."""
