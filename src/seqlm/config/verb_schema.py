"""The keys of every verb but train, with their types and limits; their values live in configs/<verb>.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .schema import ENGINES, PRECISIONS, WEIGHTS, SamplingConfig, key, seed_key


@dataclass(kw_only=True)
class DeviceConfig:
    """Where a verb computes, and how exactly."""

    device: str = key()
    precision: str = key(allowed=PRECISIONS)
    threads: int | None = key(least=1)


@dataclass(kw_only=True)
class LoadingConfig(DeviceConfig):
    """How a verb that works on a run loads it."""

    checkpoint: str = key()
    weights: str = key(allowed=("auto", *WEIGHTS))
    engine: str = key(allowed=ENGINES)
    trust: list[str] = key()


@dataclass(kw_only=True)
class DynamicConfig:
    """Dynamic evaluation: weights that learn while they are tested."""

    lr: float | None = key(above=0)
    decay: float = key(least=0, below=1)
    epsilon: float = key(above=0)
    rule: str = key(allowed=("rms", "sgd"))
    norm: str = key(allowed=("tensors", "elements", "sums"))
    bptt: int = key(least=1)
    train_batch_size: int = key(least=1)
    search: bool = key()


@dataclass(kw_only=True)
class CacheConfig:
    """The continuous cache over the last words."""

    size: int | None = key(least=1)
    flatness: float = key(least=0)
    share: float = key(least=0, below=1)
    search: bool = key()


@dataclass(kw_only=True)
class MonteCarloConfig:
    """Dropout that stays on while a text is scored."""

    samples: int | None = key(least=1)
    seed: int = seed_key()
    multiplier: float = key(above=0, most=1)


@dataclass(kw_only=True)
class EvalConfig(LoadingConfig):
    """Keys of `seqlm eval RUN`."""

    split: str = key()
    file: str | None = key()
    average_last: int | None = key(least=1)
    ensemble: list[str] = key()
    monte_carlo: MonteCarloConfig
    mean: str = key(allowed=("arithmetic", "geometric"))
    batch_size: int | None = key(least=1)
    bptt: int | None = key(least=1)
    protocol: str = key(allowed=("seqlm", "awd", "zaremba", "wlm", "lamb"))
    temperature: float | None = key(above=0)
    dynamic: DynamicConfig
    cache: CacheConfig
    search_tokens: int = key(least=100)
    data: dict[str, Any] = key()
    task: dict[str, Any] = key()

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

    format: str = key(allowed=("auto", "text", "conll", "tsv", "jsonl", "npz"))
    output: str = key(allowed=("jsonl", "columns"))
    batch_size: int = key(least=1)
    task: dict[str, Any] = key()


@dataclass(kw_only=True)
class ScoreConfig(LoadingConfig):
    """Keys of `seqlm score RUN FILE`."""

    level: str = key(allowed=("token", "word", "line", "total"))
    format: str = key(allowed=("jsonl", "tsv", "srilm"))
    context: str = key(allowed=("line", "stream"))
    direction: str = key(allowed=("forward", "backward"))
    bos: str = key(allowed=("eos", "none"))
    eos: bool = key()
    space: str = key(allowed=("leading", "trailing"))
    batch_size: int = key(least=1)
    weight: float | None = key(least=0)
    average_last: int | None = key(least=1)
    ensemble: list[str] = key()
    mean: str = key(allowed=("arithmetic", "geometric"))
    temperature: float = key(above=0)
    dynamic: DynamicConfig
    cache: CacheConfig


@dataclass(kw_only=True)
class DiagnoseConfig(LoadingConfig):
    """Keys of `seqlm diagnose RUN`."""

    split: str = key(allowed=("train", "valid", "test"))
    lags: int = key(least=1)
    times: int = key(least=1)
    rows: int = key(least=1)
    context: int = key(least=2)
    places: int = key(least=2)
    tokens: int = key(least=10)
    text: str | None = key()
    states: str | None = key()
    figures: bool = key()
    format: str = key(allowed=("png", "svg", "pdf"))


@dataclass(kw_only=True)
class BenchConfig(DeviceConfig):
    """Keys of `seqlm bench`."""

    levels: list[str] = key()
    cells: list[str] | None = key()
    engines: list[str] | None = key()
    shapes: list[str] = key()
    steps: list[str] | None = key()
    seconds: float = key(above=0)


@dataclass(kw_only=True)
class SweepConfig:
    """Keys of `seqlm sweep NAME`, beside those of `seqlm train`."""

    jobs: int = key(least=1)
    retry: bool = key()
    search: str = key()
    trials: int | None = key(least=1)
    sampler: str = key(allowed=("tpe", "random"))
    search_seed: int = key(least=0)
    pruner: str | None = key(allowed=(None, "median", "hyperband", "none"))
    objective: str | None = key()


@dataclass(kw_only=True)
class TailConfig:
    """Keys of `seqlm tail RUN|SWEEP`."""

    lines: int = key(least=0)
    follow: bool = key()
    wait: bool = key()
    samples: bool = key()


@dataclass(kw_only=True)
class SlurmConfig:
    """How SLURM runs a job: options of sbatch, and what is run in front of seqlm."""

    partition: str | None = key()
    account: str | None = key()
    qos: str | None = key()
    time: str | None = key()
    mem: str | None = key()
    cpus: int | None = key(least=1)
    gpus: int | None = key(least=1)
    constraint: str | None = key()
    parallel: int | None = key(least=1)
    signal: int = key(least=1, most=65535)
    setup: list[str] = key()
    python: str | None = key()
    extra: list[str] = key()


@dataclass(kw_only=True)
class SlurmKeys:
    """Keys of `slurm=true`, beside those of the verb that it submits."""

    slurm: SlurmConfig


@dataclass(kw_only=True)
class SampleConfig(LoadingConfig, SamplingConfig):
    """Keys of `seqlm sample RUN`."""

    condition: Any = key()
    texts: int = key(least=1)
    average_last: int | None = key(least=1)
