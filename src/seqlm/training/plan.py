"""The part of a run that its learning-rate schedule is spread over, and what becomes of it when the run is extended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config.build import accepts
from ..config.schema import Config
from ..errors import ConfigError
from ..optim.schedules import EXTENSIONS, Moment

if TYPE_CHECKING:
    from .session import Progress, Session

End = tuple[str, float]  # ("step", 3300), or ("seconds", 600.0) where wall-clock time is the only limit
SAMPLES = 1000  # places of the rest of a run at which its learning rates are looked at


@dataclass
class Plan:
    """From `step`, `epoch` and `seconds` of a run to `end`, decided when the run was to end at `run_end`."""

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    end: End = ("step", 0)
    run_end: End = ("step", 0)

    def moment(self, step: int, epoch: int, seconds: float) -> Moment:
        """A place in the run as a place in the plan."""
        unit, end = self.end
        begin, now = (self.step, step) if unit == "step" else (self.seconds, seconds)
        fraction = (now - begin) / (end - begin) if end > begin else 1.0
        return Moment(step - self.step, epoch - self.epoch, min(fraction, 1.0))

    def extended(self, run_end: End, how: str, progress: Progress) -> Plan:
        """The plan of a run that ends at `run_end` now, from `progress` on."""
        if how == "hold":
            return replace(self, run_end=run_end)
        if how == "rewarm":
            return Plan(progress.step, progress.epoch, progress.seconds, run_end, run_end)
        return replace(self, end=run_end, run_end=run_end)


def extend(session: Session, progress: Progress, saved: Config, where: str) -> str:
    """Give the progress of a resumed run its plan; returns a line about the learning rate if it depends on a new end.

    `saved` is the config of the run before, `where` its folder. Raises ConfigError if the end has changed, the learning
    rate depends on it, and schedule.extend does not say what is to become of it.
    """
    old, run_end = progress.plan or planned(session, saved), session.end_of(session.config)
    progress.plan = old
    if old.run_end == run_end:
        typed = session.config.schedule.get("extend") != saved.schedule.get("extend")
        return "as before: schedule.extend does nothing where the end stays the same" if typed else ""
    choices = {how: old.extended(run_end, how, progress) for how in EXTENSIONS}
    if session.ended(progress) or not _depends_on_the_end(session, progress, old, choices["replan"]):
        progress.plan = choices["replan"]
        return ""
    rates = {how: _rates(session, plan, progress) for how, plan in choices.items()}
    how, before = session.schedule.extend, _rate(session, old, progress, progress.step - 1, progress.seconds)
    if how is None:
        if accepts(session.config.schedule, "schedule", "extend", trust=session.config.trust):
            raise ConfigError(_question(where, old, run_end, before, rates))
        how = "replan"
    progress.plan = choices[how]
    restarted = how != "hold" and session.averaging.restart(session.moment(progress))
    return (
        f"{before:.3g} so far, now {_in_words(rates[how])} (schedule.extend={how})"
        + "; the average of the weights starts again" * restarted
    )


def planned(session: Session, config: Config) -> Plan:
    """The plan of a run from its beginning to the end that `config` says."""
    end = session.end_of(config)
    return Plan(end=end, run_end=end)


def _depends_on_the_end(session: Session, progress: Progress, old: Plan, new: Plan) -> bool:
    """Whether another end gives another learning rate, now or later."""
    here = (progress.step, progress.epoch, progress.seconds)
    fractions = [old.moment(*here).fraction, new.moment(*here).fraction, *(index / 20 for index in range(21))]
    moments = [Moment(progress.step, progress.epoch, fraction) for fraction in fractions]
    return len({session.schedule.factor(at) for at in moments}) > 1


def _rate(session: Session, plan: Plan, progress: Progress, step: int, seconds: float) -> float:
    """The learning rate of a step under a plan, in the epoch of now."""
    at = plan.moment(max(step, 0), progress.epoch, seconds)
    return session.learning_rates[0] * session.lr_factor(at, progress)


def _rates(session: Session, plan: Plan, progress: Progress) -> list[float]:
    """Learning rates under a plan from the next step to the last, in the epoch of now."""
    unit, end = plan.run_end
    left = end - 1 - progress.step if unit == "step" else end - progress.seconds
    shares = [index / SAMPLES for index in range(SAMPLES + 1)]
    return [
        _rate(session, plan, progress, progress.step + round(left * share), progress.seconds)
        if unit == "step"
        else _rate(session, plan, progress, progress.step + index, progress.seconds + left * share)
        for index, share in enumerate(shares)
    ]


def _in_words(rates: Sequence[float]) -> str:
    """The course of learning rates."""
    first, most, last = rates[0], max(rates), rates[-1]
    if len({f"{rate:.3g}" for rate in rates}) == 1:
        return f"{first:.3g} to the end"
    return f"{first:.3g}" + f", up to {most:.3g}" * (most > max(first, last)) + f", {last:.3g} at the end"


def _question(where: str, old: Plan, run_end: End, before: float, rates: Mapping[str, Sequence[float]]) -> str:
    """The error that asks for schedule.extend, with what each choice does."""
    meanings = {
        "hold": "stays as at the old end",
        "replan": "spread over the whole run",
        "rewarm": "starts again",
    }
    lines = [f"  schedule.extend={how:<8} {_in_words(course)}: {meanings[how]}" for how, course in rates.items()]
    return (
        f"{where} was planned to end at {_place(old.run_end)}, now at {_place(run_end)}.\n"
        f"Its learning rate, {before:.3g} so far, depends on the end; add one of:\n" + "\n".join(lines)
    )


def _place(end: End) -> str:
    unit, value = end
    return f"step {value:,.0f}" if unit == "step" else f"{value / 60:g} minutes"
