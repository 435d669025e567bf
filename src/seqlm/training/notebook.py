"""The progress bar of a run in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..terminal import Part

TICKS = 1000  # of a whole bar


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def notebook_bar(parts: Callable[[], Sequence[Part]], share: Callable[[], float]) -> Any:
    """A bar, drawn up to `share` of 1 with all `parts` behind it: a widget, or text where there is no ipywidgets."""
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> bool | None:
            self.n = round(TICKS * share())
            self.set_description_str("  ".join(part.text for part in parts() if part.text), refresh=False)
            return super().update(0)

    shape = "{percentage:3.0f}%|{bar}| {desc}"
    return Bar(total=TICKS, file=sys.stdout, bar_format=shape, miniters=0, dynamic_ncols=True)
