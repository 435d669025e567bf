"""Leaves of the training loop: schedules, checkpoints, signals, loggers, devices."""

from .schedules import Constant, DivideOnPlateau, HoldThenDecay, Moment, Schedule, WarmupCosine

__all__ = ["Constant", "DivideOnPlateau", "HoldThenDecay", "Moment", "Schedule", "WarmupCosine"]
