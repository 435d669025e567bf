"""Where the time of a step goes: `seqlm train debug=profile`."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from ..files import writing
from .callbacks import Callback, TrainingState

PARTS = ("forward", "backward", "optimizer")  # record_function's names in gradient.py and loop.py
MOST = 12  # operations that are shown


class Profile(Callback):
    """Records a few steps with torch's profiler, prints the time by part and operation, and keeps a trace.

    The trace is `profile.json` in the run's folder, for chrome://tracing or ui.perfetto.dev.

    Args:
        skip: steps before it begins, of which the first compile and measure
        steps: that are recorded
    """

    def __init__(self, skip: int = 10, steps: int = 20) -> None:
        if skip < 1 or steps < 1:
            raise ValueError(f"skip={skip} and steps={steps} must be at least 1")
        self.skip, self.steps = skip, steps
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # its own lines would tear the bar
        self._profile: Any = None

    def on_step(self, state: TrainingState) -> None:
        """Begin, go on, or end."""
        if self._profile is None:
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._profile = profile(
                activities=kinds, schedule=schedule(wait=self.skip, warmup=1, active=self.steps, repeat=1),
                on_trace_ready=lambda done: self._show(done, state), acc_events=True,
            )  # fmt: skip
            self._profile.start()
        self._profile.step()

    def on_end(self, state: TrainingState) -> None:
        """End a run that was too short."""
        if self._profile is not None:
            self._profile.stop()

    def _show(self, done: Any, state: TrainingState) -> None:
        path = state.run.path / "profile.json"
        with writing(path):
            done.export_chrome_trace(str(path))
        events = done.key_averages()
        whole = sum(one.cpu_time_total for one in events if one.key.startswith("ProfilerStep")) or 1.0
        by_part = {one.key: one.cpu_time_total for one in events if one.key in PARTS}
        by_part["the rest"] = whole - sum(by_part.values())
        lines = [f"profile of {self.steps} steps, {whole / self.steps / 1e3:.1f} ms a step; trace: {path}"]
        lines += [f"  {name:<24}{_shown(time, whole, self.steps)}" for name, time in by_part.items()]
        lines.append("  by operation, without those that it calls:")
        own = {one: _own_time(one) for one in events if one.key not in PARTS and not one.key.startswith("ProfilerStep")}
        for one in sorted(own, key=own.__getitem__, reverse=True)[:MOST]:
            calls = f"{one.count / self.steps:8.1f} calls"
            lines.append(f"  {one.key[:23]:<24}{_shown(own[one], whole, self.steps)}  {calls}")
        print("\n".join(lines), flush=True)


def _own_time(event: Any) -> float:
    """Microseconds of an operation itself, on the device that computes."""
    return float(event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total)


def _shown(microseconds: float, whole: float, steps: int) -> str:
    return f"{microseconds / steps / 1e3:9.2f} ms  {100 * microseconds / whole:5.1f}%"
