"""Keys and names of older runs, and what became of them: one table that keeps every run folder readable.

Imports neither torch nor hydra. A key that moves gets a line in RENAMED, a class that moves one in MOVED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .metrics import ACCURACY, F1, MACRO_F1, PERPLEXITY, Metric

# Dotted keys of the configuration of a run, older -> today's.
RENAMED = {"task.judged_by": "task.monitor"}

# Keys of the other verbs, older -> today's: they are typed, never saved.
VERB_KEYS = {"lens": "protocol"}

# Metrics of the tasks of version 0.1.0, whose run.json does not tell what its task declares.
METRICS = (
    PERPLEXITY,
    Metric("bpc", higher_is_better=False),
    F1,
    ACCURACY,
    MACRO_F1,
    Metric("frame", percent=True),
    Metric("exact", percent=True),
    Metric("bleu", 2, title="BLEU"),
    Metric("chrf", 2, title="chrF"),
)

# Today's module of every part that a config of version 0.1.0 named by its package, as seqlm.data.Atis.
MOVED = {
    "seqlm.cells.elman": "ElmanCell",
    "seqlm.cells.feed_forward": "FeedForwardCell",
    "seqlm.cells.gru": "GRUCell",
    "seqlm.cells.jordan": "JordanCell",
    "seqlm.cells.layer_norm_gru": "LayerNormGRUCell",
    "seqlm.cells.layer_norm_lstm": "LayerNormLSTMCell",
    "seqlm.cells.lstm": "LSTMCell",
    "seqlm.cells.min_gru": "MinGRUCell",
    "seqlm.cells.min_lstm": "MinLSTMCell",
    "seqlm.cells.mogrifier_lstm": "MogrifierLSTMCell",
    "seqlm.cells.peephole": "PeepholeLSTMCell",
    "seqlm.cells.qrnn": "QRNNCell",
    "seqlm.cells.rhn": "RHNCell",
    "seqlm.data.sources.atis": "Atis",
    "seqlm.data.sources.conll": "Conll",
    "seqlm.data.sources.dates": "Dates",
    "seqlm.data.sources.entropy": "HiddenMarkov MarkovChain",
    "seqlm.data.sources.enwik8": "Enwik8",
    "seqlm.data.sources.features": "Features",
    "seqlm.data.sources.generated": "Arithmetic Copy Reverse",
    "seqlm.data.sources.iob": "Iob",
    "seqlm.data.sources.labelled": "Labelled",
    "seqlm.data.sources.parallel": "Parallel",
    "seqlm.data.sources.ptb": "PennTreebank",
    "seqlm.data.sources.ptbchar": "PennTreebankChar",
    "seqlm.data.sources.pydoc": "PydocCorpus",
    "seqlm.data.sources.taipei": "Taipei",
    "seqlm.data.sources.text": "TextCorpus",
    "seqlm.data.sources.text8": "Text8",
    "seqlm.data.sources.wikitext": "WikiText103 WikiText2",
    "seqlm.data.tokenizers.examples": "ExampleTokenizer",
    "seqlm.data.tokenizers.text": "ByteTokenizer CharTokenizer WordTokenizer",
    "seqlm.models.conditional": "build_conditional_model",
    "seqlm.models.decoder": "Decoder",
    "seqlm.models.heads": "CRFHead TagHead",
    "seqlm.models.label_head": "JointHead LabelHead",
    "seqlm.models.presets": "build_language_model",
    "seqlm.models.sequence_model": "build_sequence_model",
    "seqlm.optim.averaging": "Averaging Exponential Mean NonMonotone Triggered",
    "seqlm.optim.schedules": "Constant DivideOnPlateau HoldThenDecay Milestones OneCycle WarmupCosine",
    "seqlm.tasks.bilm": "BidirectionalLanguageModeling",
    "seqlm.tasks.classification": "Classification",
    "seqlm.tasks.cloze": "Cloze",
    "seqlm.tasks.conditional": "Conditional",
    "seqlm.tasks.joint": "Joint",
    "seqlm.tasks.lm": "LanguageModeling",
    "seqlm.tasks.seq2seq": "Seq2Seq",
    "seqlm.tasks.tagging": "Tagging",
}
_PACKAGES = ("cells", "data", "models", "tasks", "training")
_TARGETS = {f"seqlm.{package}.{name}": f"{module}.{name}" for module, names in MOVED.items() for name in names.split()
            for package in _PACKAGES}  # fmt: skip


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
    """The nested configuration of an older run with today's keys and names; one of today is left as it is."""
    migrated: dict[str, Any] = _with_targets(config)
    for old, new in RENAMED.items():
        *path, last = old.split(".")
        section = _section(migrated, path)
        if section is not None and last in section:
            value = section.pop(last)
            *path, last = new.split(".")
            _section(migrated, path, make=True).setdefault(last, value)  # type: ignore[union-attr]
    return migrated


def migrate_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """The run.json of an older run with today's keys: the monitor, and the metrics that the task declares."""
    kept = {key: value for key, value in info.items() if key != "judged_by"}
    declared = [metric._asdict() for metric in METRICS]
    return {"monitor": info.get("judged_by", "loss"), "declared_metrics": declared, **kept}


def migrate_score(score: Mapping[str, Any]) -> dict[str, Any]:
    """A score that an older `seqlm eval` wrote, with today's keys: its `lens` is a `protocol`."""
    if not isinstance(old := score.get("lens"), Mapping):
        return dict(score)
    kept = {key: value for key, value in score.items() if key != "lens"}
    return {**kept, "protocol": {"name": old.get("lens"), **{key: old[key] for key in old if key != "lens"}}}


def renamed(key: str) -> str | None:
    """Today's name of a key that was renamed, None for any other."""
    return RENAMED.get(key) or VERB_KEYS.get(key)


def _with_targets(value: Any) -> Any:
    """A copy with today's name of every class and builder."""
    if isinstance(value, Mapping):
        copy = {key: _with_targets(inner) for key, inner in value.items()}
        if isinstance(target := copy.get("_target_"), str):
            copy["_target_"] = _TARGETS.get(target, target)
        return copy
    return [_with_targets(item) for item in value] if isinstance(value, list) else value


def _section(config: dict[str, Any], path: list[str], make: bool = False) -> dict[str, Any] | None:
    """The mapping at a dotted path, made where it is missing if `make`; None if there is none."""
    for name in path:
        inner = config.setdefault(name, {}) if make else config.get(name)
        if not isinstance(inner, dict):
            return None
        config = inner
    return config
