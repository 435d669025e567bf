"""Leaves of the training loop: schedules, averages, checkpoints, signals, loggers, devices."""

from .averaging import Averaging, Exponential, Mean, NonMonotone, Triggered
from .figures import Heatmap
from .schedules import Constant, DivideOnPlateau, HoldThenDecay, Milestones, Moment, OneCycle, Schedule, WarmupCosine

__all__ = [
    "Averaging",
    "Constant",
    "DivideOnPlateau",
    "Exponential",
    "Heatmap",
    "HoldThenDecay",
    "Mean",
    "Milestones",
    "Moment",
    "NonMonotone",
    "OneCycle",
    "Schedule",
    "Triggered",
    "WarmupCosine",
]
