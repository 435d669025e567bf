"""The typed trunk of a configuration. Values live in configs/*.yaml, their types and limits live here.

Parts (model, data, optim, ...) are nodes with a `_target_`, whose schema is the constructor they name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, get_args

LARGEST_SEED = 2**63 - 1
RANDOM_SEED = "random"  # typed for a seed: a number is drawn, which is the value from then on


def _key(
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


def _seed() -> Any:
    return _key(least=0, most=LARGEST_SEED, seed=True)


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

    name: str | None = _key()
    root: str = _key()


@dataclass(kw_only=True)
class TrainConfig:
    """The loop: what a step reads, when it evaluates, when it ends."""

    batch_size: int = _key(least=1)
    bptt: int = _key(least=1)
    bptt_std: float = _key(least=0)
    bptt_half_prob: float = _key(least=0, below=1)
    accumulate: int = _key(least=1)
    eval_batch_size: int = _key(least=1)
    loss_unit: str = _key(allowed=("mean", "sum"))
    clip_norm: float | None = _key(above=0)
    l2: float = _key(least=0)
    drop_state: float = _key(least=0, below=1)
    default_steps: int = _key(least=1)
    steps: int | None = _key(least=1)
    epochs: int | None = _key(least=1)
    tokens: int | None = _key(least=1)
    minutes: float | None = _key(above=0)
    patience: int | None = _key(least=1)
    nonmonotone: int | None = _key(least=0)
    on_nonfinite: str = _key(allowed=ON_NONFINITE)
    eval_every: int | None = _key(least=1)
    log_every: int = _key(least=1)

    @property
    def limits(self) -> dict[str, float]:
        """Limits that end the run, by unit: those that are given, or the default number of steps."""
        given = {unit: limit for unit in LIMITS if (limit := getattr(self, unit)) is not None}
        return given or {"steps": self.default_steps}


@dataclass(kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int | None = _key(least=1)
    minutes: float | None = _key(above=0)
    keep_last: int = _key(least=1)
    keep_best: int = _key(least=0)
    keep_every: int | None = _key(least=1)


@dataclass(kw_only=True)
class SamplingConfig:
    """How tokens are drawn; the same keys for `seqlm sample` and for the samples during training."""

    prompt: str = _key()
    tokens: int = _key(least=0)
    temperature: float = _key(least=0)
    top_k: int | None = _key(least=1)
    top_p: float | None = _key(above=0, most=1)
    seed: int = _seed()
    allow_unk: bool = _key()


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
    tags: list[str] = _key()
    note: str | None = _key()
    seed: int = _seed()
    device: str = _key()
    precision: str = _key(allowed=PRECISIONS)
    engine: str = _key(allowed=STEP_ENGINES)
    deterministic: bool = _key()
    threads: int | None = _key(least=1)
    resume: str | None = _key(allowed=(None, "auto"))
    init_from: str | InitFrom | None = _key()  # a text alone is its run
    eval_weights: str = _key(allowed=WEIGHTS)
    trust: list[str] = _key()
    published: Published | None = _key()
    callbacks: list[Any] = _key()
    logger: dict[str, Any] = _key()
    train: TrainConfig
    checkpoint: CheckpointConfig
    sample: SamplingConfig
    data: Any = _key()
    model: Any = _key()
    task: Any = _key()
    optim: Any = _key()
    schedule: Any = _key()
    averaging: Any = _key()

    @property
    def begins_with(self) -> InitFrom | None:
        """`init_from` in full; None if the run begins with no other."""
        return {"run": self.init_from} if isinstance(self.init_from, str) else self.init_from


@dataclass(kw_only=True)
class DeviceConfig:
    """Where a verb computes, and how exactly."""

    device: str = _key()
    precision: str = _key(allowed=PRECISIONS)
    threads: int | None = _key(least=1)


@dataclass(kw_only=True)
class LoadingConfig(DeviceConfig):
    """How a verb that works on a run loads it."""

    checkpoint: str = _key()
    weights: str = _key(allowed=("auto", *WEIGHTS))
    engine: str = _key(allowed=ENGINES)
    trust: list[str] = _key()


@dataclass(kw_only=True)
class DynamicConfig:
    """Dynamic evaluation: weights that learn while they are tested."""

    lr: float | None = _key(above=0)
    decay: float = _key(least=0, below=1)
    epsilon: float = _key(above=0)
    rule: str = _key(allowed=("rms", "sgd"))
    norm: str = _key(allowed=("tensors", "elements", "sums"))
    bptt: int = _key(least=1)
    train_batch_size: int = _key(least=1)
    search: bool = _key()


@dataclass(kw_only=True)
class CacheConfig:
    """The continuous cache over the last words."""

    size: int | None = _key(least=1)
    flatness: float = _key(least=0)
    share: float = _key(least=0, below=1)
    search: bool = _key()


@dataclass(kw_only=True)
class MonteCarloConfig:
    """Dropout that stays on while a text is scored."""

    samples: int | None = _key(least=1)
    seed: int = _seed()
    multiplier: float = _key(above=0, most=1)


@dataclass(kw_only=True)
class EvalConfig(LoadingConfig):
    """Keys of `seqlm eval RUN`."""

    split: str = _key()
    file: str | None = _key()
    average_last: int | None = _key(least=1)
    ensemble: list[str] = _key()
    monte_carlo: MonteCarloConfig
    mean: str = _key(allowed=("arithmetic", "geometric"))
    batch_size: int | None = _key(least=1)
    bptt: int | None = _key(least=1)
    protocol: str = _key(allowed=("seqlm", "awd", "zaremba", "wlm", "lamb"))
    temperature: float | None = _key(above=0)
    dynamic: DynamicConfig
    cache: CacheConfig
    search_tokens: int = _key(least=100)
    data: dict[str, Any] = _key()
    task: dict[str, Any] = _key()

    @property
    def adapting(self) -> list[str]:
        """The keys that make a model learn from the text it is tested on, as typed."""
        given = {"dynamic.lr": self.dynamic.lr, "cache.size": self.cache.size}
        return [f"{key}={value:g}" for key, value in given.items() if value is not None]

    @property
    def averaging(self) -> list[str]:
        """The keys that average probabilities of words, as typed."""
        ensemble = [f"ensemble=[{','.join(self.ensemble)}]"] if self.ensemble else []
        samples = self.monte_carlo.samples
        return ensemble + ([f"monte_carlo.samples={samples}"] if samples is not None else [])


@dataclass(kw_only=True)
class PredictConfig(LoadingConfig):
    """Keys of `seqlm predict RUN FILE`."""

    format: str = _key(allowed=("auto", "text", "conll", "tsv", "jsonl", "npz"))
    output: str = _key(allowed=("jsonl", "columns"))
    batch_size: int = _key(least=1)
    task: dict[str, Any] = _key()


@dataclass(kw_only=True)
class ScoreConfig(LoadingConfig):
    """Keys of `seqlm score RUN FILE`."""

    level: str = _key(allowed=("token", "word", "line", "total"))
    format: str = _key(allowed=("jsonl", "tsv", "srilm"))
    context: str = _key(allowed=("line", "stream"))
    direction: str = _key(allowed=("forward", "backward"))
    bos: str = _key(allowed=("eos", "none"))
    eos: bool = _key()
    space: str = _key(allowed=("leading", "trailing"))
    batch_size: int = _key(least=1)
    weight: float | None = _key(least=0)
    average_last: int | None = _key(least=1)
    ensemble: list[str] = _key()
    mean: str = _key(allowed=("arithmetic", "geometric"))
    temperature: float = _key(above=0)
    dynamic: DynamicConfig
    cache: CacheConfig


@dataclass(kw_only=True)
class DiagnoseConfig(LoadingConfig):
    """Keys of `seqlm diagnose RUN`."""

    split: str = _key(allowed=("train", "valid", "test"))
    lags: int = _key(least=1)
    times: int = _key(least=1)
    rows: int = _key(least=1)
    context: int = _key(least=2)
    places: int = _key(least=2)
    tokens: int = _key(least=10)
    figures: bool = _key()
    format: str = _key(allowed=("png", "svg", "pdf"))


@dataclass(kw_only=True)
class BenchConfig(DeviceConfig):
    """Keys of `seqlm bench`."""

    levels: list[str] = _key()
    cells: list[str] | None = _key()
    engines: list[str] | None = _key()
    shapes: list[str] = _key()
    steps: list[str] | None = _key()
    seconds: float = _key(above=0)


@dataclass(kw_only=True)
class SweepConfig:
    """Keys of `seqlm sweep NAME`, beside those of `seqlm train`."""

    jobs: int = _key(least=1)
    retry: bool = _key()
    search: str = _key()
    trials: int | None = _key(least=1)
    sampler: str = _key(allowed=("tpe", "random"))
    search_seed: int = _key(least=0)
    pruner: str | None = _key(allowed=(None, "median", "hyperband", "none"))
    objective: str | None = _key()


@dataclass(kw_only=True)
class TailConfig:
    """Keys of `seqlm tail RUN|SWEEP`."""

    lines: int = _key(least=0)
    follow: bool = _key()
    wait: bool = _key()
    samples: bool = _key()


@dataclass(kw_only=True)
class SlurmConfig:
    """How SLURM runs a job: options of sbatch, and what is run in front of seqlm."""

    partition: str | None = _key()
    account: str | None = _key()
    qos: str | None = _key()
    time: str | None = _key()
    mem: str | None = _key()
    cpus: int | None = _key(least=1)
    gpus: int | None = _key(least=1)
    constraint: str | None = _key()
    parallel: int | None = _key(least=1)
    signal: int = _key(least=1, most=65535)
    setup: list[str] = _key()
    python: str | None = _key()
    extra: list[str] = _key()


@dataclass(kw_only=True)
class SlurmKeys:
    """Keys of `slurm=true`, beside those of the verb that it submits."""

    slurm: SlurmConfig


@dataclass(kw_only=True)
class SampleConfig(LoadingConfig, SamplingConfig):
    """Keys of `seqlm sample RUN`."""

    condition: Any = _key()
    texts: int = _key(least=1)
    average_last: int | None = _key(least=1)
