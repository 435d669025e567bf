"""Trackio: a file on this machine, or a Space of Hugging Face, whose key `hf auth login` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Logger, Opening
from .make import package


class Trackio(Logger):
    """A run of Trackio, which a resumed run goes on with; points that come again are kept beside the first ones."""

    def __init__(self, project: str = "seqlm", space_id: str | None = None) -> None:
        self._trackio = package("trackio")
        self._project, self._space_id = project, space_id
        for module in (self._trackio, package("trackio.run"), package("trackio.utils")):
            vars(module)["print"] = _say_nothing  # it would tear the bar of the training

    def watch(self, folder: Path) -> str | None:
        """Its dashboard for what is on this machine."""
        return f"trackio show --project {self._project}" if self._space_id is None else None

    def open(self, opening: Opening) -> str | None:
        """Begin the run, or go on with it: it is found by its name, which ends in the id of ours."""
        config = {"tags": ",".join(opening.tags), "note": opening.note or ""}
        self._begun = self._trackio.init(
            self._project, f"{opening.folder.name}-{opening.id}", space_id=self._space_id, config=config,
            resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        self._early: list[tuple[str, str, int]] | None = []
        return None if self._space_id is None else f"https://huggingface.co/spaces/{self._space_id}"

    def hparams(self, values: Mapping[str, Any]) -> None:
        """The run's config, which goes with the first that is logged: texts before it have waited."""
        self._begun.config.update(values)
        early, self._early = self._early or [], None
        for text in early:
            self.text(*text)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A point for each value."""
        self._begun.log(dict(values), step=step)

    def text(self, tag: str, text: str, step: int) -> None:
        """A text as code in Markdown."""
        if self._early is not None:
            self._early.append((tag, text, step))
            return
        lines = "\n".join(f"    {line}" for line in text.splitlines())
        self._begun.log({tag: self._trackio.Markdown(lines)}, step=step)

    def picture(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """A picture."""
        self._begun.log({tag: self._trackio.Image(pixels)}, step=step)

    def close(self, status: str) -> None:
        """End the session, with its status as an alert where the run did not finish."""
        if status != "finished":
            levels = self._trackio.AlertLevel
            self._begun.alert(f"run {status}", level=levels.ERROR if status == "failed" else levels.WARN)
        self._begun.finish()


def _say_nothing(*texts: object, **options: object) -> None:
    pass
