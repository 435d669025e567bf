"""Keys and names of older runs, and what became of them: one table that keeps every run folder readable.

Imports neither torch nor hydra. A key that moves gets a line in RENAMED, a class that moves one in MOVED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .keys import dotted, nested
from .metrics import ACCURACY, F1, MACRO_F1, PERPLEXITY, Metric

# Dotted keys of the configuration of a run, older -> today's; behind "; " how to choose the part that has it.
RENAMED = {
    "train.window": "train.bptt",
    "train.window_spread": "train.bptt_std",
    "train.window_halved": "train.bptt_half_prob",
    "task.judged_by": "task.monitor",
    "task.activation_penalty": "task.penalties.activation",
    "task.temporal_penalty": "task.penalties.temporal",
    "model.softmaxes": "model.output.num_softmaxes; use model/output=mixture",
    "model.dropout.latent": "model.output.latent_dropout; use model/output=mixture",
    "model.cutoffs": "model.output.cutoffs; use model/output=adaptive",
    "model.div_value": "model.output.div_value; use model/output=adaptive",
}

# Older keys that are no key today.
REPLACED = {"model.predicts": "the choice of a model: model=lstm, bilm or cloze"}

# Keys that are younger than the first records, with the values that those were made with.
ADDED: dict[str, Any] = {
    "averaging._target_": "seqlm.optim.averaging.Averaging",
    "eval_weights": "average",
    "train.accumulate": 1,
}

# Keys of sources that are younger than 0.1.0, by the class: None is how that version read, to the byte.
READ_AS_BEFORE = {
    "seqlm.data.sources.text.TextCorpus": ("encoding", "newlines"),
    "seqlm.data.sources.parallel.Parallel": ("encoding", "newlines"),
    "seqlm.data.sources.labelled.Labelled": ("header", "quoting"),
}

# The logger of every run that is older than the key.
TENSORBOARD = {"_target_": "seqlm.training.loggers.tensorboard.TensorBoard"}

# Keys of the other verbs, older -> today's: they are typed, never saved.
VERB_KEYS = {"lens": "protocol", "window": "bptt", "dynamic.window": "dynamic.bptt"}

# The same of what `seqlm eval` wrote, by the part of it ("": the whole), and of the progress in a checkpoint.
SCORE_KEYS = {
    "": {"lens": "protocol", "nats": "loss_sum", "window": "bptt"},
    "lens": {"lens": "name", "columns": "batch_size"},
    "protocol": {"columns": "batch_size"},
    "adaptation": {"window": "bptt"},
}
PROGRESS_KEYS = {"window": "batch", "nats": "loss_sum", "nats_tokens": "loss_tokens", "losses": "ranks"}

# Metrics of the tasks of version 0.1.0, whose run.json does not hold those that its task declares.
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
    _split_text_models(migrated)
    if isinstance(data := migrated.get("data"), dict):
        migrated["data"] = {**dict.fromkeys(READ_AS_BEFORE.get(data.get("_target_", ""), ())), **data}
    if "run" in migrated:  # a whole configuration, not a part of one
        migrated.setdefault("logger", {"tensorboard": dict(TENSORBOARD)})
    if isinstance(sample := migrated.get("sample"), dict) and isinstance(share := sample.get("top_p"), (int, float)):
        migrated["sample"] = {**sample, "top_p": min(share, 1.0)}  # more than all was allowed, and meant all
    for old, new in RENAMED.items():
        _rename(migrated, old.split("."), new.partition(";")[0].split("."))
    return migrated


def migrate_flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a whole configuration by dotted key, as records of results hold it."""
    return ADDED | dotted(migrate(nested(config)))


def migrate_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """The run.json of an older run with today's keys: the monitor, and the metrics that the task declares."""
    kept = {key: value for key, value in info.items() if key != "judged_by"}
    declared = [metric._asdict() for metric in METRICS]
    return {"monitor": info.get("judged_by", "loss"), "declared_metrics": declared, **kept}


def migrate_score(score: Mapping[str, Any]) -> dict[str, Any]:
    """A score that an older `seqlm eval` wrote, with today's keys."""
    parts = {name: _with_names(part, SCORE_KEYS[name]) for name, part in score.items() if name in SCORE_KEYS}
    return dict(_with_names({**score, **parts}, SCORE_KEYS[""]))


def migrate_progress(progress: Mapping[str, Any]) -> dict[str, Any]:
    """The progress in the checkpoint of an older run with today's names, and evaluations with today's ranks."""
    migrated = dict(_with_names(progress, PROGRESS_KEYS))
    # One that was compared by the metric alone has it twice: for the loss, which most runs monitor, that is its rank.
    if "ranks" in migrated:
        migrated["ranks"] = [(one, one) if isinstance(one, float) else one for one in migrated["ranks"]]
    return migrated


def renamed(key: str) -> str | None:
    """Today's name of an older key, and how to choose the part that has it; None for any other."""
    return RENAMED.get(key) or REPLACED.get(key)


def _with_names(values: Any, names: Mapping[str, str]) -> Any:
    return {names.get(key, key): value for key, value in values.items()} if isinstance(values, Mapping) else values


def _with_targets(value: Any) -> Any:
    """A copy with today's name of every class and builder."""
    if isinstance(value, Mapping):
        copy = {key: _with_targets(inner) for key, inner in value.items()}
        if isinstance(target := copy.get("_target_"), str):
            copy["_target_"] = _TARGETS.get(target, target)
        return copy
    return [_with_targets(item) for item in value] if isinstance(value, list) else value


def _rename(config: dict[str, Any], old: list[str], new: list[str]) -> None:
    """Move a leaf, unless the part that it belongs to is the user's own, which may mean something else by it."""
    node: Any = config
    owner = "seqlm."
    for name in old[:-1]:
        node = node.get(name)
        if not isinstance(node, dict):
            return
        owner = str(node.get("_target_", owner))
    if old[-1] in node and owner.startswith("seqlm."):
        value, home = node.pop(old[-1]), config
        for name in new[:-1]:
            home = home.setdefault(name, {})
        home.setdefault(new[-1], value)


def _split_text_models(config: dict[str, Any]) -> None:
    """One builder with `predicts` and the options of all output layers -> three builders, and an output layer."""
    model, builder = config.get("model"), "seqlm.models.presets.build_language_model"
    if not isinstance(model, dict) or model.get("_target_") != builder or "output" in model:
        return
    others = {"both": "build_bidirectional_language_model", "masked": "build_cloze_model"}
    if (predicts := model.pop("predicts", "next")) in others:
        model["_target_"] = f"seqlm.models.presets.{others[predicts]}"
    num_softmaxes, latent_dropout = model.pop("softmaxes", 1), model.get("dropout", {}).pop("latent", 0.0)
    cutoffs, div_value = model.pop("cutoffs", None), model.pop("div_value", 4.0)
    if cutoffs is not None:
        sizes = {"cutoffs": cutoffs, "div_value": div_value}
        model["output"] = {"_target_": "seqlm.layers.adaptive.AdaptiveSoftmax", **sizes}
    elif num_softmaxes != 1:
        sizes = {"num_softmaxes": num_softmaxes, "latent_dropout": latent_dropout}
        model["output"] = {"_target_": "seqlm.layers.mixture.Mixture", **sizes}
    else:
        model["output"] = {"_target_": "seqlm.layers.softmax.Softmax"}
