"""matplotlib, imported where a picture is drawn, and colours that those who tell no red from green can tell apart."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError, install_hint

# M. Okabe and K. Ito, "Color Universal Design" (2008), without black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def file_pyplot() -> Any:
    """pyplot, drawing into files. Raises ImportError if matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def pyplot_for(subject: str, without: str = "") -> Any:
    """The same for the words of a command; `without` says how it goes without pictures. Raises ConfigError."""
    try:
        return file_pyplot()
    except ImportError:
        raise ConfigError(f"{subject} matplotlib: {install_hint('plots')}{without}") from None
