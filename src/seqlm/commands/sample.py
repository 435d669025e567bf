"""seqlm sample: write text with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from ..config.schema import SampleConfig
from ..config.values import verb_config
from ..device import autocast, prepare
from ..errors import ConfigError
from ..runs.load import load_run
from .words import run_and_words


def main(words: Sequence[str]) -> None:
    """`seqlm sample RUN [key=value ...]`: stream text to standard output."""
    folder, words = run_and_words("sample", words)
    options = verb_config("sample", SampleConfig, words)
    device = prepare(options.device, options.precision, options.threads)
    run = load_run(
        folder,
        checkpoint=options.checkpoint,
        average_last=options.average_last,
        weights=options.weights,
        engine=options.engine,
        trust=options.trust,
    )
    if options.condition is not None and "condition" not in run.task.sample_options:
        raise ConfigError(f"condition={options.condition} is for runs of task=conditional; leave it out")
    run.model.to(device)
    typed = [word.partition("=")[2] for word in words if word.startswith("condition=")]
    if typed and typed[-1] in getattr(run.tokenizer, "vocabularies", {}).get("label", ()):
        options = replace(options, condition=typed[-1])  # one that looks like a number, or like true, is still a label
    for seed in range(options.seed, options.seed + options.texts):
        with autocast(device, options.precision):
            pieces = run.task.write(run.model, run.tokenizer, replace(options, seed=seed))
            first = next(pieces, "")  # a bad prompt is refused before anything is printed
            sys.stdout.write(options.prompt + first)
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
        sys.stdout.write("\n")
