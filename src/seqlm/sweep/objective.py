"""The numbers that a search makes small or large: metrics of valid, the size of the model, the speed of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config.metrics import Metric, by_name
from ..config.schema import Config
from ..errors import ConfigError

# Of a run as a whole, by the names of their columns in `seqlm runs`.
WHOLE = {
    "parameters": Metric("parameters", 0, higher_is_better=False),
    "tokens/s": Metric("tokens/s", 0, higher_is_better=True),
}


@dataclass(frozen=True)
class Objective:
    """A number of a run; that of a metric of valid is the one at its best checkpoint."""

    metric: Metric

    @property
    def name(self) -> str:
        return self.metric.name

    @property
    def is_metric(self) -> bool:
        """Whether it is measured at each evaluation."""
        return self.name not in WHOLE

    @property
    def direction(self) -> str:
        return "maximize" if self.metric.higher_is_better else "minimize"

    def at_evaluation(self, record: Mapping[str, Any], prefix: str = "") -> float | None:
        """Its value in the metrics of an evaluation; None if it is not finite."""
        return _finite(record.get(f"{prefix}{self.name}"))

    def of_run(self, info: Mapping[str, Any]) -> float | None:
        """Its value in the run.json of a run that has ended; None if there is none."""
        if self.name == "parameters":
            return _finite((info.get("parameters") or {}).get("total"))
        if self.name == "tokens/s":
            tokens, seconds = _finite(info.get("tokens")), _finite(info.get("seconds"))
            return tokens / seconds if tokens and seconds else None
        return self.at_evaluation(info.get("metrics") or {}, "valid/")

    def text(self, value: float) -> str:
        """A value with its name."""
        return f"{self.name} {value:,.0f}" if not self.is_metric else f"{self.name} {self.metric.text(value)}"


def objectives(text: str | None, config: Config) -> list[Objective]:
    """The objectives of `objective=TEXT`, by default the monitored metric of the task. Raises ConfigError."""
    from ..config.build import build

    task = build(config.task, "task", trust=config.trust)
    known = {**by_name(task.metrics), **WHOLE}
    names = [name.strip() for name in (text or task.monitor).split(",")]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"objective={text}: {unknown[0] or 'nothing'} is no metric; allowed: {', '.join(known)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"objective={text} names a metric twice")
    return [Objective(known[name]) for name in names]


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
