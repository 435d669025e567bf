"""The findings of a search: the best trials and their spread, which keys matter, the time that pruning saved."""

from __future__ import annotations

import shlex
import statistics
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..config.metrics import Metric
from ..config.values import load_config
from ..errors import ConfigError
from ..runs.folder import RunFolder
from ..training.console import clock
from . import study as studies
from .objective import Objective

TOP_SHARE, TOP_LEAST = 0.1, 3  # of the complete trials, and how many at least
LISTED = 10  # trials of a Pareto front


@dataclass(frozen=True)
class Findings:
    """A search as it stands: its folder, study and objectives."""

    folder: Path
    study: optuna.Study
    objectives: list[Objective]

    @property
    def trials(self) -> list[FrozenTrial]:
        return studies.trials_of(self.study)

    @property
    def ranked(self) -> list[FrozenTrial]:
        """Complete trials, the best of the first objective first."""
        complete = [one for one in self.trials if one.state == TrialState.COMPLETE]
        return sorted(complete, key=lambda one: self.objectives[0].metric.rank(one.values[0]))

    @property
    def front(self) -> list[FrozenTrial]:
        """Of several objectives the trials that no other beats in all; of one the best."""
        if len(self.objectives) == 1:
            return self.ranked[:1]
        return sorted(self.study.best_trials, key=lambda one: self.objectives[0].metric.rank(one.values[0]))

    @property
    def top(self) -> list[FrozenTrial]:
        """The best tenth of the complete trials, three at least."""
        return self.ranked[: max(TOP_LEAST, round(TOP_SHARE * len(self.ranked)))]

    def importances(self) -> dict[str, float]:
        """The share of each key in the spread of the first objective, by PED-ANOVA (arXiv 2304.10255); often empty.

        Over complete trials alone, and only once there are enough to speak of a share.
        """
        if len(self.ranked) < 2 * TOP_LEAST:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return optuna.importance.get_param_importances(self.study, target=lambda trial: trial.values[0])
            except (ValueError, RuntimeError):  # all values alike
                return {}

    def values(self, trial: FrozenTrial) -> str:
        """The objectives of a trial, as text."""
        return "  ".join(one.text(value) for one, value in zip(self.objectives, trial.values, strict=True))

    def run(self, trial: FrozenTrial) -> RunFolder:
        return RunFolder(self.folder / str(trial.user_attrs.get("run", "")))


def findings_in(folder: Path) -> Findings | None:
    """The findings of the search in a sweep's folder; None if there is none."""
    try:
        study = studies.open_study(folder, "none")
        metrics = study.user_attrs["search"]["metrics"]
    except KeyError:
        return None
    return Findings(folder, study, [Objective(Metric(**one)) for one in metrics])


def rows(found: Findings) -> list[tuple[str, str]]:
    """The findings as rows of a label and a text."""
    if not found.ranked:
        return [("best", "no trial is complete yet")]
    best = [
        (
            "best" if index == 0 and len(found.objectives) == 1 else "Pareto" if index == 0 else "",
            f"trial {one.number + 1}  {found.values(one)}  {found.run(one).path}",
        )
        for index, one in enumerate(found.front[:LISTED])
    ]
    more = len(found.front) - len(best)
    return [
        *best,
        *([("", f"and {more} more, none beaten by another in all objectives")] if more > 0 else []),
        ("train it", f"seqlm train {shlex.join(found.front[0].user_attrs.get('words', []))}"),
        (f"best {len(found.top)}", _spread(found)),
        ("importance", ", ".join(f"{key} {share:.2f}" for key, share in found.importances().items())),
        ("pruned", saved(found)),
    ]


def record(found: Findings) -> dict[str, Any]:
    """The findings as JSON; `front` has the best trial, or the Pareto front of several objectives, the best first."""
    names = [one.name for one in found.objectives]
    return {
        "trials": dict(Counter(one.state.name.lower() for one in found.trials)),
        "objectives": names,
        "front": [
            {
                "trial": one.number + 1,
                "run": str(found.run(one).path),
                "values": dict(zip(names, one.values, strict=True)),
                "params": one.params,
                "words": one.user_attrs.get("words", []),
            }
            for one in found.front
        ],
        "importances": found.importances(),
    }


def _spread(found: Findings) -> str:
    """The range of the objective and of each key over the best trials."""
    objective, values = found.objectives[0], [one.values[0] for one in found.top]
    parts = [f"{objective.text(values[0])} to {objective.metric.text(values[-1])}"]
    for key in found.top[0].params:
        chosen = [one.params[key] for one in found.top if key in one.params]
        if isinstance(chosen[0], str):
            parts.append(f"{key} {', '.join(f'{option} ({n})' for option, n in Counter(chosen).most_common())}")
        else:
            parts.append(f"{key} {min(chosen):.4g} to {max(chosen):.4g}")
    return "; ".join(parts)


def saved(found: Findings) -> str:
    """How much pruning has spared: the share of all training that was not done, and its time at the speed of the rest.

    Steps of a large model count as those of a small one.
    """
    seconds, shares = 0.0, []
    for trial in found.trials:
        try:
            info = found.run(trial).info()
            shares.append(_share_done(info, load_config(found.run(trial).config).train.limits))
            seconds += float(info.get("seconds") or 0.0)
        except ConfigError:  # it never began, or was deleted
            continue
    pruned = sum(one.state == TrialState.PRUNED for one in found.trials)
    if not pruned or not shares:
        return ""
    done = statistics.fmean(shares)
    return (
        f"{pruned} of {len(found.trials)} trials: {1 - done:.0%} of the training was spared, "
        f"about {clock(seconds / done - seconds)} beside the {clock(seconds)} that was spent"
    )


def _share_done(info: Mapping[str, Any], limits: Mapping[str, float]) -> float:
    """How much of its limits a run has come to; one that is not pruned has ended."""
    if info.get("status") != "pruned":
        return 1.0
    come = {"steps": info.get("steps", 0), "tokens": info.get("tokens", 0), "minutes": info.get("seconds", 0.0) / 60}
    shares: Sequence[float] = [come[unit] / limit for unit, limit in limits.items() if unit in come]
    return min(1.0, max(shares, default=1.0))
