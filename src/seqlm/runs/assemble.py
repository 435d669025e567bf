"""From a configuration to the parts it describes, each checked before anything is built or written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ..config.build import accepts, build, check, fits, named_class
from ..config.schema import Config
from ..data.dataset import Data, FileData
from ..data.examples import Example, Examples, Format, check_rename
from ..data.sources.of_file import node_of_file
from ..data.tokenizers.examples import ExampleTokenizer
from ..data.tokenizers.text import Tokenizer
from ..errors import ConfigError, several

# Keys of a data node that say how its text is read, whatever the text.
READING = ("tokenizer", "vocab_from", "limit", "rename")


def check_parts(config: Config) -> None:
    """Raise ConfigError that lists every mistake in every part, before anything is built or written."""
    corpus, reading = _split_data(config.data)
    parts: list[tuple[Any, str, tuple[str, ...]]] = [
        (corpus, "data", ("outputs",)),
        (reading.get("tokenizer", {}), "data.tokenizer", ()),
        (config.model, "model", ("vocab_size", "sizes", "engine", "load")),
        (config.task, "task", ()),
        (config.optim, "optim", ("params",)),
        (config.schedule, "schedule", ()),
        (config.averaging, "averaging", ()),
    ]
    problems = []
    for node, where, runtime in parts:
        if not isinstance(node, Mapping):
            problems.append(f"{where}={node} is not a part; choose one with {where.replace('.', '/')}=...")
        else:
            problems += check(node, where, runtime=runtime, trust=config.trust)
    limit, vocab_from = reading.get("limit"), reading.get("vocab_from", "train")
    if not fits(limit, int | None) or (limit is not None and limit < 1):
        problems.append(f"data.limit={limit} should be a whole number of at least 1, or null")
    problems += check_rename(reading.get("rename"))
    if vocab_from not in ("train", "all"):
        problems.append(f"data.vocab_from={vocab_from} is unknown; allowed: train, all")
    if problems:
        raise several(problems)


def build_data(config: Config, tokenizer: Tokenizer | None = None) -> Data:
    """The data of a config; the tokenizer is fitted unless the run already has one."""
    corpus_node, reading = _split_data(config.data)
    known = {"outputs": str(config.run.root)} if accepts(corpus_node, "data", "outputs", trust=config.trust) else {}
    corpus = build(corpus_node, "data", trust=config.trust, **known)
    rename = reading.get("rename") or {}
    if tokenizer is not None:
        return Data(corpus, tokenizer, reading.get("limit"), rename)
    unfitted = build(reading["tokenizer"], "data.tokenizer", trust=config.trust)
    return Data.fitted(corpus, unfitted, reading.get("vocab_from", "train"), reading.get("limit"), rename)


def data_of_file(config: Config, tokenizer: Any, path: str, own: Callable[[], Data]) -> FileData:
    """All of a file, in the format of a run's data, as the split FILE beside its `own` data. Raises ConfigError."""
    return FileData(_whole_file(config, tokenizer, path), own)


def examples_of_file(config: Config, path: str, format: Format | None) -> Iterator[Example]:
    """The examples in a file, in the format of a run's data or another. Raises ConfigError."""
    return _whole_file(config, None, path, format, of_examples=True).examples("train")


def _whole_file(
    config: Config, tokenizer: Any, path: str, format: Format | None = None, of_examples: bool = False
) -> Data:
    """A file as the split train."""
    node, reading = _split_data(config.data)
    source = named_class(node, "data", trust=config.trust)
    if of_examples and not issubclass(source, Examples):
        source = Examples
    of_file = node_of_file(node, source, path, format)
    rename = reading.get("rename") if of_file["_target_"] == node["_target_"] else None
    return Data(build(of_file, "data", trust=config.trust), tokenizer, None, rename or {})


def build_model(config: Config, tokenizer: Tokenizer | ExampleTokenizer, load: Callable[..., Any] | None = None) -> Any:
    """The model of a config, for the vocabulary of `tokenizer`, on the CPU.

    `load` gives the model and the tokenizer of a run whose states the model reads: `trained_model` of load.py.
    """
    engine = "auto" if config.engine == "graph" else config.engine  # a graph is of the step, not of a layer
    known: dict[str, Any]
    known = {"sizes": tokenizer.sizes()} if isinstance(tokenizer, ExampleTokenizer) else {"vocab_size": len(tokenizer)}
    if accepts(config.model, "model", "sizes", trust=config.trust) != ("sizes" in known):
        has, wants = ("examples", "a text") if "sizes" in known else ("a text", "examples")
        raise ConfigError(
            f"this data is {has}, but model._target_={config.model['_target_']} reads {wants}; "
            "choose another model= or data="
        )
    output = config.model.get("output")
    cutoffs = output.get("cutoffs") if isinstance(output, Mapping) else None
    if cutoffs and not getattr(tokenizer, "ranked", True):
        raise ConfigError(
            f"model.output.cutoffs={cutoffs} needs tokens in the order of their frequency, which those of a "
            f"{tokenizer.kind} tokenizer are not in; use data/tokenizer=word or char, or model/output=softmax"
        )
    if load is not None and accepts(config.model, "model", "load", trust=config.trust):
        known["load"] = partial(load, engine=engine, trust=config.trust)
    model = build(config.model, "model", trust=config.trust, engine=engine, **known)
    if isinstance(tokenizer, ExampleTokenizer) and hasattr(model, "extra_fields"):
        tokenizer.fields.update({field.name: field for field in model.extra_fields(tokenizer)})
    return model


def _split_data(node: Any) -> tuple[Any, dict[str, Any]]:
    if not isinstance(node, Mapping):
        return node, {}
    corpus = {key: value for key, value in node.items() if key not in READING}
    return corpus, {key: node[key] for key in READING if key in node}
