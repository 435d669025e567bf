"""All diagnoses of a run, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    known = run.task.language_models(run.model)
    if not known:
        raise ConfigError(
            f"{run.folder.path} is no language model, and {type(run.task).__name__} has no losses of next tokens to "
            "look at; seqlm diagnose is for task=lm and task=bilm"
        )
    model, encoded = known["forward"], run.data[options.split]
    tokens = torch.from_numpy(encoded.tokens[: options.tokens].astype("int64"))
    steps = options.lags + options.times
    rows = min(options.rows, len(tokens) // (steps + 1))
    if rows < 1 or len(tokens) <= options.context:
        raise ConfigError(
            f"split={options.split} has {len(tokens):,} tokens; lags={options.lags} with times={options.times} needs "
            f"{steps + 1:,} and context={options.context} {options.context + 1:,}"
        )
    device = next(model.parameters()).device
    texts = tokens[: rows * (steps + 1)].view(rows, steps + 1).t().contiguous().to(device)
    model.eval()
    curves = gradient_by_lag(model, texts, lags=options.lags, times=options.times)
    context = loss_by_context(model, tokens.to(device), most=options.context, places=options.places)
    return {
        "run": run.folder.name,
        "checkpoint": run.checkpoint.step,
        "split": options.split,
        "gradients": [curve.record() for curve in curves],
        "spectra": [one.record() for one in spectra(model)],
        "context": context.record(),
        "gates": [gate.record() for gate in gates(model, texts[:-1])],
        "units": _units(model, run, tokens.to(device), options),
        "clipping": clipping(run.folder.records(), run.config.train.clip_norm),
        "update_ratios": update_ratios(run.folder),
        "words": rare_words(run.data["train"].tokens, len(run.tokenizer)),
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
        (read_states if options.text is None else drawn_states).save(Path(options.states).expanduser())
    pieces = drawn_states.pieces[:DRAWN, 0].tolist()
    shown = {name: values[:DRAWN] for name, values in shown_units(drawn_states, rankings).items()}
    return record_of(rankings, shown, pieces)
