"""TensorBoard: events in the run's own folder, which is all that its server needs."""

from __future__ import annotations

import functools
import re
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from ...config.metrics import Metric
from .base import Logger, Opening

SUCCESS, FAILURE = api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE
# Of the HPARAMS tab.
STATUS = {"finished": SUCCESS, "pruned": SUCCESS, "failed": FAILURE, "diverged": FAILURE}
MAX_HPARAMS = 40


def _quiet_writer(args: threading.ExceptHookArgs, others: Callable[[threading.ExceptHookArgs], Any]) -> None:
    """Print no traceback of TensorBoard's own thread: what it could not write is raised at the next write."""
    if type(args.thread).__name__ != "_AsyncWriterThread" or not isinstance(args.exc_value, OSError):
        others(args)


threading.excepthook = functools.partial(_quiet_writer, others=threading.excepthook)


class TensorBoard(Logger):
    """Events of one run; points beyond the step that it is opened at, of an earlier session, are hidden.

    Args:
        x_axis: what points are drawn over: step, or tokens, which runs of other batch sizes have in common
    """

    local = True

    def __init__(self, x_axis: Literal["step", "tokens"] = "step") -> None:
        self.x_axis = x_axis

    def open(self, opening: Opening) -> str | None:
        """Open a file of events of its own for this session."""
        self._folder = opening.folder
        self._open(opening.step)
        return None

    def watch(self, folder: Path) -> str:
        """The server, for all runs beside this one."""
        return f"tensorboard --logdir {shlex.quote(str(folder.parent))}"

    def back_to(self, step: int) -> None:
        """Hide the points beyond `step`."""
        self._writer.close()
        self._open(step)

    def _open(self, step: int) -> None:
        _await_next_second(self._folder)
        # purge_step hides what a killed session wrote beyond its last checkpoint. It works only if the
        # first session marked its start too, hence 0 and not None.
        self._writer = SummaryWriter(str(self._folder), purge_step=step + 1 if step else 0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A point for each value."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def metrics(self, metrics: Mapping[str, Metric]) -> None:
        """A chart under CUSTOM SCALARS for each of these metrics, with all splits in it."""
        charts = {name: ["Multiline", [f"^(train|valid|test)/{re.escape(name)}$"]] for name in metrics}
        self._writer.add_custom_scalars({"train, valid and test": charts})

    def text(self, tag: str, text: str, step: int) -> None:
        """Preformatted text under the TEXT tab."""
        self._writer.add_text(tag, "\n".join("    " + line for line in text.splitlines()), step)

    def picture(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """A picture under the IMAGES tab."""
        self._writer.add_image(tag, pixels, step, dataformats="HWC")

    def histogram(self, tag: str, values: NDArray[np.float32], step: int) -> None:
        """A histogram under the HISTOGRAMS and DISTRIBUTIONS tabs."""
        self._writer.add_histogram(tag, values, step)

    def hparams(self, values: Mapping[str, Any]) -> None:
        """A session of the HPARAMS tab, in this run's own event file: N runs show as N runs.

        Only the start and end records of a session are written. An experiment record, which
        SummaryWriter.add_hparams adds, would hide the keys that only later runs have. The session names no group: it
        is a group of its own then, under the name of its folder, also where that was copied or renamed.
        """
        start = plugin_data_pb2.SessionStartInfo()
        for key, value in list(values.items())[:MAX_HPARAMS]:
            if isinstance(value, bool):  # before int, which it is too
                start.hparams[key].bool_value = value
            elif isinstance(value, (int, float)):
                start.hparams[key].number_value = value
            else:
                start.hparams[key].string_value = str(value)
        self._session(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start))

    def flush(self) -> None:
        """Bring the events to the disk."""
        self._writer.flush()

    def close(self, status: str) -> None:
        """End the session as a success or a failure; a run that was interrupted leaves it open to be resumed."""
        if status in STATUS:
            end = plugin_data_pb2.SessionEndInfo(status=STATUS[status])
            self._session(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))
        self._writer.close()

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
