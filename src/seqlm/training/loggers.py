"""Logs of a run: metrics.jsonl and TensorBoard, in the run's own folder."""

from __future__ import annotations

import functools
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from ..files import to_json, writing
from ..tasks.figures import Heatmap

STATUS = {"finished": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}
MAX_HPARAMS = 40


P = ParamSpec("P")
R = TypeVar("R")


def _names_the_folder(method: Callable[P, R]) -> Callable[P, R]:
    """A method of RunLogger whose error names the folder where the disk is full."""

    @functools.wraps(method)
    def named(*arguments: P.args, **options: P.kwargs) -> R:
        with writing(cast("RunLogger", arguments[0]).folder):
            return method(*arguments, **options)

    return named


def _quiet_writer(args: threading.ExceptHookArgs, others: Callable[[threading.ExceptHookArgs], Any]) -> None:
    """Print no traceback of TensorBoard's own thread: what it could not write is raised at the next write."""
    if type(args.thread).__name__ != "_AsyncWriterThread" or not isinstance(args.exc_value, OSError):
        others(args)


threading.excepthook = functools.partial(_quiet_writer, others=threading.excepthook)


class RunLogger:
    """Scalars and texts of one run; reopened at `start_step`, later points of the earlier session are hidden."""

    def __init__(self, folder: Path, *, start_step: int = 0) -> None:
        self.folder = folder
        with writing(folder):
            self._open(start_step)

    @_names_the_folder
    def reopen(self, start_step: int) -> None:
        """Go on from an earlier step: points beyond it are hidden, and metrics.jsonl may have been replaced."""
        self._writer.close()
        self._metrics.close()
        self._open(start_step)

    def _open(self, start_step: int) -> None:
        folder = self.folder
        _await_next_second(folder)
        # purge_step hides what a killed session wrote beyond its last checkpoint. It works only if the
        # first session marked its start too, hence 0 and not None.
        self._writer = SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else 0)
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    @_names_the_folder
    def scalars(self, step: int, tokens: int, seconds: float, values: Mapping[str, float]) -> None:
        """One record: a line of metrics.jsonl, and a TensorBoard point for each value."""
        record = {"step": step, "tokens": tokens, "seconds": round(seconds, 3), **values}
        self._metrics.write(to_json(record) + "\n")
        self._metrics.flush()
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    @_names_the_folder
    def best(self, step: int, name: str, value: float) -> None:
        """The best value of valid so far: the first metric of the HPARAMS tab, which shows the last of each tag."""
        self._writer.add_scalar(f"best/valid_{name}", value, step)

    @_names_the_folder
    def charts(self, names: Iterable[str]) -> None:
        """A chart under CUSTOM SCALARS for each of these metrics, with all splits in it."""
        charts = {name: ["Multiline", [f"^(train|valid|test)/{re.escape(name)}$"]] for name in names}
        self._writer.add_custom_scalars({"train, valid and test": charts})

    @_names_the_folder
    def text(self, tag: str, text: str, step: int) -> None:
        """Preformatted text under TensorBoard's TEXT tab."""
        self._writer.add_text(tag, "\n".join("    " + line for line in text.splitlines()), step)

    @_names_the_folder
    def picture(self, tag: str, picture: Heatmap, step: int) -> None:
        """A picture under TensorBoard's IMAGES tab."""
        self._writer.add_image(tag, picture.pixels(), step, dataformats="HWC")

    def hparams(self, config: Mapping[str, Any]) -> None:
        """A session of TensorBoard's HPARAMS tab, in this run's own event file: N runs show as N runs.

        Only the start and end records of a session are written. An experiment record, which
        SummaryWriter.add_hparams adds, would hide the keys that only later runs have. The session names no group: it
        is a group of its own then, under the name of its folder, also where that was copied or renamed.
        """
        start = plugin_data_pb2.SessionStartInfo()
        for key, value in list(config.items())[:MAX_HPARAMS]:
            if isinstance(value, bool):  # before int, which it is too
                start.hparams[key].bool_value = value
            elif isinstance(value, (int, float)):
                start.hparams[key].number_value = value
            else:
                start.hparams[key].string_value = str(value)
        self._session(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start))

    @_names_the_folder
    def flush(self) -> None:
        """Bring everything written so far to the disk."""
        self._writer.flush()
        self._metrics.flush()
        os.fsync(self._metrics.fileno())

    @_names_the_folder
    def close(self, status: str) -> None:
        """End the session: `finished` and `failed` as such, anything else leaves it open to be resumed."""
        try:
            if status in STATUS:
                end = plugin_data_pb2.SessionEndInfo(status=STATUS[status])
                self._session(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))
            self._writer.close()
        finally:
            self._metrics.close()

    def _session(self, tag: str, data: Any) -> None:
        data.version = metadata.PLUGIN_DATA_VERSION
        described = metadata.create_summary_metadata(data)
        summary = Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)])
        assert self._writer.file_writer is not None
        self._writer.file_writer.add_summary(summary, 0)


def log_score(folder: Path, step: int, values: Mapping[str, float]) -> None:
    """Add a score of the checkpoint of `step` to the events of a run that nobody trains now."""
    _await_next_second(folder)
    with SummaryWriter(str(folder)) as writer:
        for tag, value in values.items():
            writer.add_scalar(tag, value, step)


def _await_next_second(folder: Path) -> None:
    """Event files are read in the order of their names, which begin with the second they were opened in."""
    for _ in range(20):
        if not any(folder.glob(f"events.out.tfevents.{int(time.time())}.*")):
            break
        time.sleep(0.1)
