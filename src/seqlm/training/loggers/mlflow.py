"""MLflow: a server, which the environment names (MLFLOW_TRACKING_URI, _USERNAME, _PASSWORD), or a local database."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from .base import Logger, Opening
from .make import package

TAG = "seqlm.id"  # by which a run is found again: its server gives it an id of its own
STATUS = {"finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED"}
LOCAL = ("sqlite", "file", "")  # a run that somebody else began must not say where MLFLOW_TRACKING_PASSWORD is sent
LONGEST = 5000  # characters of a parameter or tag that every server takes


class MLflow(Logger):
    """A run of MLflow, which a resumed run goes on with; points that come again are kept beside the first ones."""

    def __init__(self, experiment: str = "seqlm", uri: str | None = None) -> None:
        if uri is not None and urlsplit(uri).scheme not in LOCAL:
            raise ValueError("uri=... must be sqlite:///FILE or a folder; a server is named by MLFLOW_TRACKING_URI")
        self._mlflow = package("mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # what it makes of its tables would tear the bar
        self._experiment, self._uri = experiment, uri

    def watch(self, folder: Path) -> str | None:
        """Its server for a database or a folder of this machine."""
        return None if self._uri is None else f"mlflow ui --backend-store-uri {self._uri}"

    def open(self, opening: Opening) -> str | None:
        """Begin the run in its experiment, or go on with the one that has the id of ours as a tag."""
        self._client = self._mlflow.MlflowClient(self._uri)
        known = self._client.get_experiment_by_name(self._experiment)
        place = known.experiment_id if known else self._client.create_experiment(self._experiment)
        found = self._client.search_runs([place], f"tags.`{TAG}` = '{opening.id}'", max_results=1)
        if found:
            self._id, self._begins = found[0].info.run_id, False
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {TAG: opening.id, "tags": ",".join(opening.tags), "mlflow.note.content": opening.note or ""}
            self._id, self._begins = self._created(place, opening.folder.name, tags), True
        return None

    def _created(self, place: str, name: str, tags: Mapping[str, str]) -> str:
        kept = {key: value[:LONGEST] for key, value in tags.items() if value}
        return str(self._client.create_run(place, run_name=name, tags=kept).info.run_id)

    def hparams(self, values: Mapping[str, Any]) -> None:
        """The run's parameters, which may never change: those of a resumed run stay as they were."""
        if self._begins:
            made = [self._mlflow.entities.Param(key, str(value)[:LONGEST]) for key, value in values.items()]
            self._client.log_batch(self._id, params=made[:100])  # all that one call may have

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A point for each value."""
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, [self._mlflow.entities.Metric(tag, float(value), now, step) for tag, value in values.items()]
        )

    def text(self, tag: str, text: str, step: int) -> None:
        """A file among the run's artifacts."""
        self._client.log_text(self._id, text + "\n", f"{tag}/step-{step:09d}.txt")

    def picture(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """A picture among the run's artifacts."""
        self._client.log_image(self._id, pixels, f"{tag}/step-{step:09d}.png")

    def close(self, status: str) -> None:
        """End the session: an interrupted or pruned run is shown as killed."""
        self._client.set_terminated(self._id, STATUS.get(status, "KILLED"))
