"""Pictures of tables of numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = 64  # rows and columns that are shown: beyond, names cannot be read, and a picture takes gigabytes


class Heatmap(NamedTuple):
    """Numbers from 0 to 1, with names of the rows and columns and of what they are."""

    values: NDArray[np.float32]  # (rows, columns)
    rows: Sequence[str]
    columns: Sequence[str]
    row_title: str = ""
    column_title: str = ""

    def pixels(self) -> NDArray[np.uint8]:
        """Pixels (height, width, 3), dark where a number is large; with the names where there is matplotlib.

        Of the first 64 rows and columns.
        """
        if max(self.values.shape) > MOST:
            return Heatmap(
                self.values[:MOST, :MOST],
                self.rows[:MOST],
                self.columns[:MOST],
                _first(self.row_title, len(self.rows)),
                _first(self.column_title, len(self.columns)),
            ).pixels()
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            grey = np.round(255 * (1 - self.values.clip(0, 1))).astype(np.uint8)
            return np.kron(grey, np.ones((16, 16), np.uint8))[..., None].repeat(3, -1)
        height, width = (1 + 0.22 * max(len(names), 4) for names in (self.rows, self.columns))
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.imshow(self.values, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        rows, columns = ([name.replace("$", r"\$") for name in names] for names in (self.rows, self.columns))
        axes.set_xticks(range(len(columns)), columns, fontsize=8, rotation=90 if max(map(len, columns)) > 2 else 0)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.set_xlabel(self.column_title, fontsize=8)
        axes.set_ylabel(self.row_title, fontsize=8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a letter that its font lacks
            canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _first(title: str, count: int) -> str:
    """A title, with how many are left out."""
    return f"{title} (first {MOST} of {count})" if count > MOST else title
