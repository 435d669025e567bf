"""Weights & Biases. The key to it is in the environment (WANDB_API_KEY) or where `wandb login` keeps it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...config.metrics import Metric
from .base import Logger, Opening
from .make import package

PATIENCE = 20.0  # seconds to begin, and to send what is left; without a limit the process would wait for it
STEP = "step"  # its own counter of calls may not go back, as a run that resumes does


class Wandb(Logger):
    """A run of W&B, which a resumed run goes on with; points that come again are shown beside the first ones."""

    def __init__(
        self,
        project: str = "seqlm",
        entity: str | None = None,
        group: str | None = None,
        mode: Literal["online", "offline"] = "online",
    ) -> None:
        self._wandb = package("wandb")
        self._settings = self._wandb.Settings(
            silent=True, console="off", save_code=False, init_timeout=PATIENCE, finish_timeout=PATIENCE
        )
        self._wandb.setup(settings=self._settings)  # silent from now on: it would tear the bar of the training
        self._place = {"project": project, "entity": entity, "group": group, "mode": mode}

    def open(self, opening: Opening) -> str | None:
        """Begin the run under the id of ours, or go on with it; its own files lie in wandb/ of the run's folder."""
        self._run = self._wandb.init(
            **self._place,
            id=opening.id,
            resume="allow",
            name=opening.folder.name,
            tags=list(opening.tags),
            notes=opening.note,
            dir=str(opening.folder),
            reinit="create_new",
            settings=self._settings,
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        if self._place["mode"] == "offline":
            return f"wandb sync {Path(self._run.dir).parent}"
        return str(self._run.url)

    def metrics(self, metrics: Mapping[str, Metric]) -> None:
        """Let the table of runs show the best value of each metric on valid, not the last."""
        for name, metric in metrics.items():
            best = "max" if metric.higher_is_better else "min"
            self._run.define_metric(f"valid/{name}", step_metric=STEP, summary=best)

    def hparams(self, values: Mapping[str, Any]) -> None:
        """The run's config."""
        self._run.config.update(dict(values), allow_val_change=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A row of the run's history."""
        self._run.log({STEP: step, **values})

    def text(self, tag: str, text: str, step: int) -> None:
        """A panel with the text."""
        self._run.log({STEP: step, tag: self._wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)})

    def picture(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """A panel with the picture."""
        self._run.log({STEP: step, tag: self._wandb.Image(pixels)})

    def histogram(self, tag: str, values: NDArray[np.float32], step: int) -> None:
        """A panel with the histogram."""
        self._run.log({STEP: step, tag: self._wandb.Histogram(values)})

    def close(self, status: str) -> None:
        """End the session: an interrupted run is shown as preempted."""
        if status == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=int(status not in ("finished", "pruned")))
