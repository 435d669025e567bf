"""What can go wrong for a user, and the exit code that says so."""

from __future__ import annotations


class SeqlmError(Exception):
    """A failure the user should read as a few lines, never as a traceback."""

    exit_code = 1


class ConfigError(SeqlmError):
    """Something the user typed or gave cannot be used: key, value, file or folder."""

    exit_code = 2


class RunExists(ConfigError):
    """A new run was given the name of one that is there."""


class NonFiniteError(SeqlmError):
    """Loss or gradient became NaN or infinite; no step was taken with it."""

    exit_code = 3


class Stopped(SeqlmError):
    """A signal ended the work; everything is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
