"""seqlm sample: write text with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..config.schema import RANDOM_SEED
from ..config.values import verb_config
from ..config.verb_schema import SampleConfig
from ..runs import finding
from ..runs.folder import RunFolder
from ..terminal import is_terminal, status, track
from .words import run_and_words

if TYPE_CHECKING:
    from ..runs.load import LoadedRun


def main(words: Sequence[str]) -> None:
    """`seqlm sample RUN [key=value ...]`: stream text to standard output."""
    folder, words = run_and_words("sample", words)
    options = verb_config("sample", SampleConfig, words)
    finding.check_exists(RunFolder.open(folder).checkpoints, options.checkpoint)
    with status("loading torch"):  # once all that can be checked without it is right
        from ..device import autocast, prepare
        from ..runs.load import load_run
        from ..tasks.generation import check_options, stream

    def check(run: LoadedRun) -> None:
        check_options(run.task, options)

    device = prepare(options.device, options.precision, options.threads)
    run = load_run(
        folder,
        checkpoint=options.checkpoint,
        average_last=options.average_last,
        weights=options.weights,
        engine=options.engine,
        trust=options.trust,
        check=check,
    )
    run.model.to(device)
    typed = [word.partition("=")[2] for word in words if word.startswith("condition=")]
    if typed and typed[-1] in getattr(run.tokenizer, "vocabularies", {}).get("label", ()):
        options = replace(options, condition=typed[-1])  # one that looks like a number, or like true, is still a label
    if f"seed={RANDOM_SEED}" in words:
        print(f"seed {options.seed} was drawn; seed={options.seed} writes the same again", file=sys.stderr, flush=True)
    for seed in range(options.seed, options.seed + options.texts):
        with autocast(device, options.precision):
            pieces = stream(run.task, run.model, run.tokenizer, replace(options, seed=seed))
            if not is_terminal(sys.stdout):  # which shows by its text how far it has come
                pieces = track(pieces, "sampling", " tokens", options.tokens)
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
        sys.stdout.write("\n")
