"""The few calls of a back end that shows a run while it trains, and their meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...config.metrics import Metric


class Opening(NamedTuple):
    """The run that a back end is to show, and where it goes on.

    Args:
        folder: of the run; its name is that of the run.
        step: that the run stands at; points beyond it are of a session that was killed, and will come again.
        begins: whether nothing is known of the run yet.
        id: under which a server knows the run, in every session and whatever its folder is called.
        tags: the user's words for it.
        note: the user's sentence about it.
        tokens: that it was trained on by then; a logger whose `x_axis` is tokens is given them as `step`.
    """

    folder: Path
    step: int = 0
    begins: bool = True
    id: str = ""
    tags: Sequence[str] = ()
    note: str | None = None
    tokens: int = 0


class Logger:
    """A back end that shows a run while it trains: override the calls that it has something to do for.

    The calls come in this order: `open`, then `metrics` and `hparams`, then any of the others, then `close`.
    They come from a thread of the logger's own, so that a slow network keeps no training waiting. An exception in one
    of them is told in one line, and nothing more is sent.

    Attributes:
        local: it writes into the run's folder and nowhere else. Its calls then come from the training itself, and an
            exception ends the run, as a full disk does.
        x_axis: "step", or "tokens": then every `step` that it is given is the number of tokens trained on, so that
            runs of other batch sizes can be laid over each other.
    """

    local = False
    x_axis = "step"

    def open(self, opening: Opening) -> str | None:
        """Begin to show a run, or go on with it; returns where it can be seen, if that is known now."""

    def watch(self, folder: Path) -> str | None:
        """The command that shows the runs beside `folder`, if there is one."""

    def metrics(self, metrics: Mapping[str, Metric]) -> None:
        """Take the metrics of the task by name, of which train, valid and test can be shown in one chart."""

    def hparams(self, values: Mapping[str, Any]) -> None:
        """Take the hyper-parameters, the most telling first: texts, numbers and switches by dotted key."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show a point for each value, by its tag: `train/loss`."""

    def text(self, tag: str, text: str, step: int) -> None:
        """Show a text, in which spaces and line feeds count."""

    def picture(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Show a picture of (height, width, 3) pixels."""

    def histogram(self, tag: str, values: NDArray[np.float32], step: int) -> None:
        """Show how values (N) are spread."""

    def back_to(self, step: int) -> None:
        """Forget, as far as the back end can, what was shown beyond `step`: the run has gone back there."""

    def flush(self) -> None:
        """Bring everything so far to where it is kept: a checkpoint is about to be written."""

    def close(self, status: str) -> None:
        """Take leave of a run that is finished, pruned, diverged, failed or interrupted; all may be resumed."""
