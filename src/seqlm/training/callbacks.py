"""Callbacks: code of the user's own that is called at moments of training, and may end it."""

from __future__ import annotations

import difflib
import inspect
import math
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from ..config.build import build, check
from ..config.schema import Config
from ..device import random_state, set_random_state
from ..errors import CallbackError, ConfigError
from ..runs import checkpoint
from ..runs.folder import RunFolder
from .report import trust_word

if TYPE_CHECKING:
    from .loggers.run_logger import RunLogger
    from .session import Progress, Session

HOOKS = ("on_step", "on_evaluation", "on_save", "on_end")
PACKAGE = str(Path(__file__).resolve().parents[1])
OWN_TAGS = ("train", "valid", "test", "step", "tokens", "seconds")
PLAIN = (type(None), bool, int, float, str)  # with tensors, lists, tuples and dicts: what a checkpoint keeps


class StopTraining(Exception):
    """Raised by a callback to end the run as a limit does: it is evaluated, saved and marked finished.

    The message says why. Such a run may be resumed: it goes on until a callback or a limit ends it again.
    """

    status = "finished"


class PruneTraining(StopTraining):
    """Raised by a callback to end a run that promises too little: as StopTraining, but it is marked pruned."""

    status = "pruned"


class TrainingState:
    """The run as callbacks see it.

    Attributes: `run` (its folder, `run.path`), `config`, `model`, `optimizer`, `task`, `data`, `progress` (step, epoch,
    tokens, seconds, best_step, ...), `step`; of the last step `loss` (nats per target) and `grad_norm` (before
    clipping); of the last evaluation `metrics` and whether it `improved` on the best; `checkpoint`, the folder of the
    last one; `status`: running, at the end finished, pruned, interrupted, diverged (not finite), lost (to another
    machine) or failed; `rank` of this process among those that train together, 0 if there is one.
    """

    def __init__(self, run: RunFolder, session: Session, progress: Progress, logger: RunLogger) -> None:
        self.run, self.progress, self._session, self._logger = run, progress, session, logger
        self.config, self.model, self.optimizer = session.config, session.model, session.optimizer
        self.task, self.data, self.rank = session.task, session.data, session.ranks.rank
        self.loss = self.grad_norm = math.nan
        self.metrics: dict[str, float] = {}
        self.improved = False
        self.checkpoint: Path | None = None
        self.status = "running"

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.progress.step

    @property
    def ended(self) -> bool:
        """Whether a limit is reached, or a callback has ended the run: no further step is taken."""
        return self._session.ended(self.progress)

    def log(self, values: Mapping[str, float]) -> None:
        """Write values by tag (`mine/norm`) to TensorBoard and metrics.jsonl, at the present step."""
        if own := [tag for tag in values if tag.partition("/")[0] in OWN_TAGS]:
            raise ValueError(f"{own[0]} is a name of the run's own; log it as mine/..., say")
        self._logger.scalars(self.step, self.progress.tokens, self.progress.seconds, values)

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """A context in which the model has the weights that are evaluated: the average, if there is one."""
        return self._session.evaluated_weights()


class Callback:
    """Code of your own at moments of training: override the hooks that you need.

    A hook may raise StopTraining("why"). Any other exception ends the run with a CallbackError that names the callback.
    Hooks run without gradients (torch.no_grad), and after each torch's random numbers are as before it, so a callback
    that only looks on changes no bit of a run.
    One whose attributes decide something later returns them from `state_dict`: then a resumed run is the same to the
    bit. `on_save` comes too late for what it changes to be in that checkpoint.
    Where several ranks train together, hooks are called on rank 0, once each. A callback that changes what is trained,
    such as weights, the optimizer or the task, has to do so on all of them alike: with `everywhere` it is called there.
    """

    everywhere: ClassVar[bool] = False

    def on_step(self, state: TrainingState) -> None:
        """After each step, before the evaluation and the checkpoint of that step."""

    def on_evaluation(self, state: TrainingState) -> None:
        """After each evaluation of valid, before its checkpoint."""

    def on_save(self, state: TrainingState) -> None:
        """After each checkpoint, when it is whole: `state.checkpoint`."""

    def on_end(self, state: TrainingState) -> None:
        """Once at the end, whatever that is: `state.status`."""

    def state_dict(self) -> dict[str, Any]:
        """Numbers, texts, tensors, lists and dicts that the checkpoint keeps."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned, before a resumed run goes on."""


class Callbacks:
    """The callbacks of a run, by name; `stopped` says which one ended it, and why, `status` what the run is then."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self._named: dict[str, Callback] = {}
        for one in callbacks:
            name = f"{type(one).__module__}.{type(one).__qualname__}"
            several = sum(known.partition("#")[0] == name for known in self._named)
            self._named[f"{name}#{several + 1}" if several else name] = one
        self._hooks = {
            hook: {
                name: getattr(one, hook)
                for name, one in self._named.items()
                if getattr(type(one), hook) is not getattr(Callback, hook)
            }
            for hook in HOOKS
        }
        self._state: TrainingState | None = None
        self._write: Callable[[str], None] = print
        self.stopped: str | None = None
        self.status = StopTraining.status

    def begin(self, state: TrainingState, write: Callable[[str], None]) -> None:
        """Give the hooks this state from now on, and the user a word through `write` when one ends the run."""
        self._state, self._write = state, write
        if state.rank:
            for hook, methods in self._hooks.items():
                self._hooks[hook] = {name: one for name, one in methods.items() if self._named[name].everywhere}

    def step(self, loss: float, grad_norm: float) -> None:
        """Call on_step."""
        self._call("on_step", loss=loss, grad_norm=grad_norm)

    def evaluation(self, metrics: Mapping[str, float], improved: bool) -> None:
        """Call on_evaluation."""
        self._call("on_evaluation", metrics=dict(metrics), improved=improved)

    def save(self, saved: Path) -> None:
        """Call on_save with the folder of a checkpoint."""
        self._call("on_save", checkpoint=saved)

    def end(self, status: str) -> None:
        """Call on_end. If the run did not finish, a failure is only a note: another error is on its way."""
        if self._state is None:
            return
        try:
            self._call("on_end", status=status)
        except CallbackError as error:
            if status == self.status:
                raise
            print(f"note: {error}", file=sys.stderr, flush=True)

    def facts(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """Entries of run.json: the callbacks of the last session, if there ever were any, and which one ended it."""
        known = self._named or "callbacks" in info
        return {"callbacks": list(self._named), "stopped_by": self.stopped} if known else {}

    def state_dict(self) -> dict[str, Any]:
        """The states of all callbacks that have one. Raises CallbackError if one could not be loaded again."""
        states = {}
        for name, one in self._named.items():
            try:
                states[name] = one.state_dict()
            except Exception as error:
                raise self._failed(name, "state_dict", error) from error
            for where, value in _strange(states[name], ""):
                kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
                raise CallbackError(
                    f"callback {name}: state_dict(){where} is of type {kind}; a checkpoint keeps numbers, texts, "
                    "tensors, lists and dicts: use float(x), list(x) or x.tolist()"
                )
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Give every callback its state back; says which states belong to none of them."""
        for name, state in states.items():
            if name not in self._named:
                print(f"note: callback {name} was not given this time; its state is left behind", file=sys.stderr)
                continue
            try:
                self._named[name].load_state_dict(state)
            except Exception as error:
                raise self._failed(name, "load_state_dict", error) from error

    def _call(self, hook: str, **news: Any) -> None:
        """Call a hook of every callback that has it. Nothing that it draws is missing in training."""
        state = self._state
        if state is None or not self._hooks[hook]:
            return
        for name, value in news.items():
            setattr(state, name, value)
        device = next(state.model.parameters()).device
        random = random_state(device)
        for name, method in self._hooks[hook].items():
            try:
                with torch.no_grad():
                    method(state)
            except StopTraining as why:
                if self.stopped is None and hook != "on_end":
                    self.stopped, self.status = f"{name}: {why}" if str(why) else name, why.status
                    self._write(f"step {state.step:>7,}  ended by callback {self.stopped}")
            except Exception as error:
                raise self._failed(name, hook, error) from error
        set_random_state(random, device)
        if not state.model.training:
            state.model.train()

    def _failed(self, name: str, method: str, error: Exception) -> CallbackError:
        """The error of a user's method, with its place in the run, and what is saved of that."""
        message = f"callback {name} failed in {method}{_told(error)}"
        if self._state is not None:
            kept, run = checkpoint.steps(self._state.run.checkpoints), self._state.run.path
            saved = f"its newest checkpoint is of step {kept[-1]:,}" if kept else "it has no checkpoint yet"
            way_out = f"seqlm.resume({str(run)!r}, callbacks=[...])"
            if self._state.config.callbacks:
                way_out = f"seqlm resume {shlex.quote(str(run))}{trust_word(self._state.config)}"
            message += f"\nThat was at step {self._state.step:,} of {run}; {saved}. Resume it with: {way_out}"
        return CallbackError(message)


def make_callbacks(config: Config, given: Sequence[Callback]) -> Callbacks:
    """The callbacks that a config names, then those given from Python. Raises ConfigError that lists every mistake."""
    problems = []
    for index, node in enumerate(config.callbacks):
        where = f"callbacks.{index}"
        if isinstance(node, Mapping):
            problems += check(node, where, trust=config.trust)
        else:
            problems.append(f"{where}={node} is not a part; write callbacks=[{{_target_: mylab.Mine}}]")
    if problems:
        raise ConfigError("\n".join(problems))
    named = {f"callbacks.{index}": _built(node, index, config) for index, node in enumerate(config.callbacks)}
    named |= {f"callbacks[{index}]": one for index, one in enumerate(given)}
    problems = [problem for where, one in named.items() if (problem := _problem(one, where))]
    if problems:
        raise ConfigError("\n".join(problems))
    return Callbacks(list(named.values()))


def _built(node: Mapping[str, Any], index: int, config: Config) -> Callback:
    try:
        return cast("Callback", build(node, f"callbacks.{index}", trust=config.trust))
    except ConfigError:
        raise
    except Exception as error:  # the user's constructor
        raise CallbackError(f"callbacks.{index}: {node['_target_']} could not be made{_told(error)}") from error


def _problem(one: Any, where: str) -> str | None:
    """The mistake in what was given as a callback, None if there is none."""
    if inspect.isclass(one):
        return f"{where}={one.__name__} is a class; give an object, {one.__name__}(...)"
    if not isinstance(one, Callback):
        return f"{where}={one!r} is no callback; derive its class from seqlm.Callback"
    for name in dir(one):
        if name.startswith("on_") and name not in HOOKS and callable(getattr(one, name)):
            near = difflib.get_close_matches(name, HOOKS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(HOOKS)}"
            return f"{where}: {type(one).__name__}.{name} would never be called; {hint}"
    return None


def _strange(value: Any, where: str) -> list[tuple[str, Any]]:
    """All inside `value` that cannot be loaded without unpickling it, such as a subclass of float, with its place."""
    if type(value) is dict:
        items = [part for key, item in value.items() for part in ((key, " key"), (item, f"[{key!r}]"))]
    elif type(value) in (list, tuple):
        items = [(item, f"[{index}]") for index, item in enumerate(value)]
    else:
        return [] if type(value) in PLAIN or isinstance(value, Tensor) else [(where, value)]
    return [found for item, place in items for found in _strange(item, where + place)]


def _told(error: Exception) -> str:
    """An exception in a line, with its place in the user's code."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(PACKAGE)]
    place = f" ({Path(frames[0].filename).name}, line {frames[0].lineno})" if frames else ""
    return f": {type(error).__name__}: {error}".rstrip(": ") + place
