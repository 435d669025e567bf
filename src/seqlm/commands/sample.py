"""seqlm sample: write text with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from ..config.schema import SampleConfig
from ..config.values import verb_config
from ..device import prepare
from ..errors import ConfigError
from ..runs.load import load_run
from ..tasks.conditional import Conditional
from .words import run_and_words


def main(words: Sequence[str]) -> None:
    """`seqlm sample RUN [key=value ...]`: stream text to standard output."""
    folder, words = run_and_words("sample", words)
    how = verb_config("sample", SampleConfig, words)
    device = prepare(how.device, threads=how.threads)
    run = load_run(
        folder,
        checkpoint=how.checkpoint,
        average_last=how.average_last,
        weights=how.weights,
        engine=how.engine,
        trust=how.trust,
    )
    if how.condition is not None and not isinstance(run.task, Conditional):
        raise ConfigError(f"condition={how.condition} is for runs of task=conditional; leave it out")
    run.model.to(device)
    typed = [word.partition("=")[2] for word in words if word.startswith("condition=")]
    if typed and typed[-1] in getattr(run.tokenizer, "vocabularies", {}).get("label", ()):
        how = replace(how, condition=typed[-1])  # a label that looks like a number, or like true, is still a label
    for seed in range(how.seed, how.seed + how.texts):
        pieces = run.task.write(run.model, run.tokenizer, replace(how, seed=seed))
        first = next(pieces, "")  # a bad prompt is refused before anything is printed
        sys.stdout.write(how.prompt + first)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
