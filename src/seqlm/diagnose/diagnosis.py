"""All diagnoses of a run, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..config.verb_schema import DiagnoseConfig
from ..errors import ConfigError
from ..models.language_model import LanguageModel
from ..runs.load import LoadedRun
from .gates import gates
from .gradients import gradient_by_lag
from .health import clipping, rare_words, update_ratios
from .memory import loss_by_context
from .properties import most_varied
from .spectra import spectra
from .units import MOST, rank_units, record_of, shown_units, states_of

DRAWN = 100  # tokens of a picture of units


def diagnose(run: LoadedRun, options: DiagnoseConfig) -> dict[str, Any]:
    """Every diagnosis of a language model, on its split `options.split`; nothing of the run or its weights changes.

    Raises ConfigError for a run that is no language model, or a text that is too short.
    """
    model = language_model(run.task, run.model, str(run.folder.path))
    tokens = tokens_of(run.data, options)
    check_length(tokens, options)
    tokens = tokens.to(next(model.parameters()).device)
    return {
        "run": run.folder.name,
        "checkpoint": run.checkpoint.step,
        "split": options.split,
        **look(model, tokens, options),
        "units": _units(model, run, tokens, options),
        "clipping": clipping(run.folder.records(), run.config.train.clip_norm),
        "update_ratios": update_ratios(run.folder),
        "words": rare_words(run.data["train"].tokens, len(run.tokenizer)),
    }


def language_model(task: Any, model: Any, name: str) -> LanguageModel:
    """The language model that reads from the beginning, in what a task trains. Raises ConfigError if there is none."""
    known = task.language_models(model)
    if not known:
        raise ConfigError(
            f"{name} is no language model, and {type(task).__name__} has no losses of next tokens to "
            "look at; seqlm diagnose is for task=lm and task=bilm"
        )
    return cast("LanguageModel", known["forward"])


def tokens_of(data: Any, options: DiagnoseConfig) -> Tensor:
    """The tokens (N) that are looked at."""
    return torch.from_numpy(data[options.split].tokens[: options.tokens].astype("int64"))


def check_length(tokens: Tensor, options: DiagnoseConfig) -> None:
    """Raise ConfigError for a text that is too short."""
    steps = options.lags + options.times
    if len(tokens) <= steps:
        raise ConfigError(
            f"split={options.split} has {len(tokens):,} tokens; lags={options.lags} with times={options.times} needs "
            f"{steps + 1:,}"
        )


def look(model: LanguageModel, tokens: Tensor, options: DiagnoseConfig) -> dict[str, Any]:
    """Gradients, matrices, context and gates of a model on tokens (N); it is left in eval mode.

    The longest context is half of a text that is short.
    """
    steps = options.lags + options.times
    rows = min(options.rows, len(tokens) // (steps + 1))
    texts = tokens[: rows * (steps + 1)].view(rows, steps + 1).t().contiguous()
    model.eval()
    curves = gradient_by_lag(model, texts, lags=options.lags, times=options.times)
    longest = min(options.context, len(tokens) // 2)
    return {
        "gradients": [curve.record() for curve in curves],
        "spectra": [one.record() for one in spectra(model)],
        "context": loss_by_context(model, tokens, most=longest, places=options.places).record(),
        "gates": [gate.record() for gate in gates(model, texts[:-1])],
    }


def _units(model: LanguageModel, run: LoadedRun, tokens: Tensor, options: DiagnoseConfig) -> dict[str, Any]:
    """Rankings on the split, and activations on `options.text`, or on the split's beginning."""
    vocabulary = run.tokenizer.vocabulary
    read = tokens[:MOST]
    rows = min(options.rows, len(read))
    read_states = states_of(model, read[: len(read) // rows * rows].view(rows, -1).t(), vocabulary)
    rankings = rank_units(read_states)
    if options.text is not None:
        ids = torch.tensor(run.tokenizer.encode(options.text)).to(tokens)
    else:
        start = most_varied([vocabulary[token] for token in read.tolist()], DRAWN)
        ids = read[start : start + DRAWN]
    if not len(ids):
        raise ConfigError(f"text={options.text!r} holds no token")
    drawn_states = states_of(model, ids.unsqueeze(1), vocabulary)
    if options.states:
        (read_states if options.text is None else drawn_states).save(Path(options.states))
    pieces = drawn_states.pieces[:DRAWN, 0].tolist()
    shown = {name: values[:DRAWN] for name, values in shown_units(drawn_states, rankings).items()}
    return record_of(rankings, shown, pieces)
