"""The typed trunk of a configuration. Values live in configs/*.yaml, their types and limits live here.

Parts (model, data, optim, ...) are nodes with a `_target_`, whose schema is the constructor they name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, get_args

LARGEST_SEED = 2**63 - 1
RANDOM_SEED = "random"  # typed for a seed: a number is drawn, which is the value from then on


def key(
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    allowed: Sequence[Any] = (),
    seed: bool = False,
) -> Any:
    """A key whose value comes from YAML, with limits beyond those of its type; of a `seed`, which may be drawn."""
    limits = {"least": least, "most": most, "above": above, "below": below, "allowed": allowed}
    return field(metadata={**limits, "seed": seed})


def seed_key() -> Any:
    return key(least=0, most=LARGEST_SEED, seed=True)


DATA_PATHS = ("path", "train", "valid", "test")  # keys of a data node that name files
# Keys of a data node that say how its files are read, with their defaults: the text that comes of it is checked.
READING_KEYS = {"encoding": "auto", "newlines": "universal", "header": "auto", "quoting": "auto", "skip_empty": False}
PATH_KEYS = ("run.root", "init_from", "file", *(f"data.{key}" for key in DATA_PATHS))  # keys that name files
NAME_KEYS = ("run.name",)  # keys that name something else, whatever YAML would make of the name
PARTS = ("data", "model", "task", "optim", "schedule", "averaging")  # keys of a node each, chosen by part=choice
LIMITS = ("steps", "epochs", "tokens", "minutes")  # keys of train that end a run
PRECISIONS = ("float32", "tf32", "bf16")
Engine = Literal["auto", "scan", "native", "fused", "persistent", "deferred"]  # of a layer
ENGINES: tuple[str, ...] = get_args(Engine)
WEIGHTS = ("raw", "average")
ON_NONFINITE = ("stop", "skip", "rollback")
STEP_ENGINES = (*ENGINES, "graph")  # of a training step


@dataclass(kw_only=True)
class RunConfig:
    """Where the run lives: <root>/<name>."""

    name: str | None = key()
    root: str = key()


@dataclass(kw_only=True)
class TrainConfig:
    """The loop: what a step reads, when it evaluates, when it ends."""

    batch_size: int = key(least=1)
    bptt: int = key(least=1)
    bptt_std: float = key(least=0)
    bptt_half_prob: float = key(least=0, below=1)
    accumulate: int = key(least=1)
    eval_batch_size: int = key(least=1)
    loss_unit: str = key(allowed=("mean", "sum"))
    clip_norm: float | None = key(above=0)
    l2: float = key(least=0)
    drop_state: float = key(least=0, below=1)
    default_steps: int = key(least=1)
    steps: int | None = key(least=1)
    epochs: int | None = key(least=1)
    tokens: int | None = key(least=1)
    minutes: float | None = key(above=0)
    patience: int | None = key(least=1)
    nonmonotone: int | None = key(least=0)
    on_nonfinite: str = key(allowed=ON_NONFINITE)
    eval_every: int | None = key(least=1)
    log_every: int = key(least=1)
    log_parameters: int | None = key(least=1)

    @property
    def limits(self) -> dict[str, float]:
        """Limits that end the run, by unit: those that are given, or the default number of steps."""
        given = {unit: limit for unit in LIMITS if (limit := getattr(self, unit)) is not None}
        return given or {"steps": self.default_steps}


@dataclass(kw_only=True)
class DiagnosisConfig:
    """Diagnoses while a run trains."""

    every: int | None = key(least=1)


@dataclass(kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int | None = key(least=1)
    minutes: float | None = key(above=0)
    keep_last: int = key(least=1)
    keep_best: int = key(least=0)
    keep_every: int | None = key(least=1)


@dataclass(kw_only=True)
class SamplingConfig:
    """How tokens are drawn; the same keys for `seqlm sample` and for the samples during training."""

    prompt: str = key()
    tokens: int = key(least=0)
    temperature: float = key(least=0)
    top_k: int | None = key(least=1)
    top_p: float | None = key(above=0, most=1)
    seed: int = seed_key()
    allow_unk: bool = key()


class InitFrom(TypedDict, total=False):
    """The run that another begins with: its weights, and the state of its optimizer too."""

    run: str
    optimizer: bool


class Published(TypedDict, total=False):
    """Published figures of an experiment, which `seqlm reproduce` puts beside the measured ones."""

    valid: float
    test: float
    unit: str  # the metric: ppl, bpc, f1, ...; shares in percent
    about: bool  # the source rounds
    protocol: str  # how the recipe's own code counts (evaluation/protocols.py)
    source: str


@dataclass(kw_only=True)
class Config:
    """Everything a training run is made from."""

    run: RunConfig
    tags: list[str] = key()
    note: str | None = key()
    seed: int = seed_key()
    device: str = key()
    precision: str = key(allowed=PRECISIONS)
    engine: str = key(allowed=STEP_ENGINES)
    deterministic: bool = key()
    threads: int | None = key(least=1)
    resume: str | None = key(allowed=(None, "auto"))
    init_from: str | InitFrom | None = key()  # a text alone is its run
    eval_weights: str = key(allowed=WEIGHTS)
    trust: list[str] = key()
    published: Published | None = key()
    callbacks: list[Any] = key()
    logger: dict[str, Any] = key()
    train: TrainConfig
    diagnose: DiagnosisConfig
    checkpoint: CheckpointConfig
    sample: SamplingConfig
    data: Any = key()
    model: Any = key()
    task: Any = key()
    optim: Any = key()
    schedule: Any = key()
    averaging: Any = key()

    @property
    def begins_with(self) -> InitFrom | None:
        """`init_from` in full; None if the run begins with no other."""
        return {"run": self.init_from} if isinstance(self.init_from, str) else self.init_from
