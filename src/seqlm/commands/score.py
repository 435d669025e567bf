"""seqlm score: how probable each token, word and line of a text is; minimal pairs, and the best of several texts."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.values import verb_config
from ..config.verb_schema import ScoreConfig
from ..errors import ConfigError, NonFiniteError
from ..runs import finding
from ..runs.folder import RunFolder
from ..terminal import labelled, status
from .inputs import check_source, lines_of, source_name
from .scored import Totals, as_text, header, records, srilm
from .words import pop_option, refuse_flags, run_and_words

if TYPE_CHECKING:
    from ..evaluation.lines import LineScorer


def main(words: Sequence[str]) -> None:
    """`seqlm score RUN FILE|- [key=value ...]`, or with `--pairs FILE|-` or `--nbest FILE|-` in place of the file."""
    folder, rest = run_and_words("score", words)
    rest, pairs = pop_option(rest, "--pairs", "a file: --pairs FILE")
    rest, nbest = pop_option(rest, "--nbest", "a file: --nbest FILE")
    given = [one for one in (pairs, nbest) if one is not None]
    if rest and "=" not in rest[0] and (rest[0] == "-" or not rest[0].startswith("-")):
        given.append(rest[0])
        rest = rest[1:]
    refuse_flags("score", rest, "--pairs FILE and --nbest FILE")
    if len(given) != 1:
        problem = "needs a file after the run's folder, or - for standard input" if not given else "takes one file"
        raise ConfigError(f"seqlm score {problem}; --pairs FILE and --nbest FILE stand in its place")
    options = verb_config("score", ScoreConfig, rest)
    _check(options, pairs, nbest)
    source = given[0]
    check_source(source, "a text")
    for run in (folder, *options.ensemble):
        finding.check_exists(RunFolder.open(run).checkpoints, options.checkpoint)
    with status("loading torch"):  # once all that can be checked without it is right
        from ..device import prepare
        from ..evaluation.line_scoring import line_scorer, load_to_score
    device = prepare(options.device, options.precision, options.threads)
    runs = load_to_score(folder, options)
    ranked = options.level == "token" and not (pairs or nbest) and options.format != "srilm"
    scorer = line_scorer(runs, options, device, ranked=ranked)
    reader = runs[0].reader
    if pairs or nbest:
        from .choosing import score_nbest, score_pairs

        compare = score_pairs if pairs else score_nbest
        # All of them are held in memory, so that a file may not be too large.
        lines = lines_of(reader, source) if source == "-" else reader.lines(Path(source))
        compare(scorer, lines, source_name(source), options)
    else:
        lines = lines_of(reader, source, end="\n" if options.context == "stream" else "")
        _score_text(scorer, lines, source, options)


def _check(options: ScoreConfig, pairs: str | None, nbest: str | None) -> None:
    """Raise ConfigError for options that do nothing with these files."""
    if options.weight is not None and nbest is None:
        raise ConfigError(f"weight={options.weight:g} does nothing without --nbest FILE")
    other = "--pairs" if pairs else "--nbest" if nbest else ""
    plain = verb_config("score", ScoreConfig, [])
    for key, only in (("level", plain.level), ("context", plain.context), ("space", plain.space)):
        if other and (value := getattr(options, key)) != only:
            raise ConfigError(f"{key}={value} does nothing with {other}: texts are compared as lines that stand alone")
    if options.format == "srilm" and (other or options.level != plain.level):
        with_what = other or f"level={options.level}"
        raise ConfigError(f"format=srilm has words, lines and the whole in it; leave {with_what} out")


def _score_text(scorer: LineScorer, lines: Iterable[str], source: str, options: ScoreConfig) -> None:
    """Print the records of a text as it is read, and what they come to on standard error."""
    totals, level, format = Totals(), options.level, options.format
    if format == "tsv":
        print(header(level))
    for number, line in enumerate(scorer.score(lines, with_ends=options.context == "stream"), start=1):
        if not math.isfinite(line.total):
            raise NonFiniteError(f"line {number} of {source_name(source)} has no finite probability")
        totals.add(line)
        if format == "srilm":
            print(srilm(line))
        for record in records(line, number, level) if format != "srilm" else ():
            print(as_text(record, level, format))
        if number % options.batch_size == 0:
            sys.stdout.flush()
    if not totals.tokens:
        raise ConfigError(f"{source_name(source)} holds no text")
    if format == "srilm":
        print(f"file {source}: {totals.srilm()}", flush=True)
        return
    if level == "total":
        print(as_text(totals.record(), level, format))
    sys.stdout.flush()
    print(labelled(totals.rows(), sys.stderr), file=sys.stderr)
