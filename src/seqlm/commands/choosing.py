"""`seqlm score --pairs FILE|-` and `--nbest FILE|-`: which of several texts a language model prefers."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config.verb_schema import ScoreConfig
from ..data.reading import numbered
from ..errors import ConfigError
from ..evaluation.nbest import Hypothesis, Pair, accuracy, choose, errors, search_weight
from ..files import to_json
from ..terminal import labelled
from .scored import tab_separated

if TYPE_CHECKING:
    from ..evaluation.lines import LineScorer

KINDS = ("field", "linguistics_term", "UID", "kind")  # of BLiMP's objects, and of ours: what a pair tests
GOOD, BAD = ("good", "sentence_good"), ("bad", "sentence_bad")


def score_pairs(scorer: LineScorer, lines: Iterable[str], name: str, options: ScoreConfig) -> None:
    """Print for each pair in the lines how much more probable its good text is; the accuracy on standard error."""
    pairs = list(_pairs(lines, name))
    totals = [line.total for line in scorer.score(text for pair in pairs for text in (pair.good, pair.bad))]
    margins = [good - bad for good, bad in zip(totals[::2], totals[1::2], strict=True)]
    columns = ("good", "bad", "log_p_good", "log_p_bad", "margin")
    if options.format == "tsv":
        print(tab_separated(columns))
    by_kind: dict[tuple[str, str], list[float]] = defaultdict(list)
    for place, (pair, margin) in enumerate(zip(pairs, margins, strict=True)):
        values = (pair.good, pair.bad, totals[2 * place], totals[2 * place + 1], margin)
        if options.format == "tsv":
            print(tab_separated(values))
        else:
            print(to_json({**pair.kinds, **dict(zip(columns, values, strict=True))}, ascii=False))
        for kind in pair.kinds.items():
            by_kind[kind].append(margin)
    sys.stdout.flush()
    rows = [
        ("pairs", f"{len(pairs):,}"),
        ("accuracy", f"{100 * accuracy(margins):.2f}%"),
        ("mean margin", f"{sum(margins) / len(margins):.4f} nats"),
    ]
    rows += [(f"{key} {name}", f"{100 * accuracy(of):.2f}%  ({len(of):,})") for (key, name), of in by_kind.items()]
    print(labelled(rows, sys.stderr), file=sys.stderr)


def _pairs(lines: Iterable[str], name: str) -> Iterator[Pair]:
    """The pairs in lines: good<TAB>bad, or objects with good and bad, or BLiMP's."""
    for number, line in numbered(lines, name):
        where = f"{name}, line {number}"
        if line.lstrip().startswith("{"):
            found = _object(line, where)
            both = [str(found[key]) for keys in (GOOD, BAD) for key in keys if isinstance(found.get(key), str)]
            if len(both) != 2:
                raise ConfigError(f"{where}: needs the keys good and bad, or sentence_good and sentence_bad, of texts")
            kinds = {key: str(found[key]) for key in KINDS if key in found}
        else:
            both, kinds = line.split("\t"), {}
            if len(both) != 2:
                raise ConfigError(f"{where}: {len(both)} columns; write good<TAB>bad, or JSON with good and bad")
        good, bad = (text.strip() for text in both)
        if not good or not bad:
            raise ConfigError(f"{where}: one of the texts is empty")
        yield Pair(good, bad, kinds)


def score_nbest(scorer: LineScorer, lines: Iterable[str], name: str, options: ScoreConfig) -> None:
    """Print the hypothesis that is chosen of each group; how often that is right on standard error.

    Without a weight, it is chosen on every other group of those whose errors are known, and judged on the rest.
    """
    groups = _groups(lines, name)
    totals = (line.total for line in scorer.score(one.text for group in groups.values() for one in group))
    scored = {key: [one._replace(log_p=next(totals)) for one in group] for key, group in groups.items()}
    labelled_ones = [group for group in scored.values() if all(one.errors is not None for one in group)]
    rows: list[tuple[str, str]] = [("groups", f"{len(scored):,}  ({len(labelled_ones):,} with known errors)")]
    judged, weight = labelled_ones, options.weight
    if weight is None:
        if len(labelled_ones) < 2:
            raise ConfigError(
                f"{name}: {len(labelled_ones)} groups have known errors, and a weight is chosen on half of them; "
                "give the errors of two groups or more, or weight=..."
            )
        chosen_on, judged = labelled_ones[::2], labelled_ones[1::2]
        found = search_weight(chosen_on)
        weight = found.weight
        rows.append(("weight", f"{weight:.4g}, chosen on {len(chosen_on):,} of them ({found.errors:g} errors there)"))
    else:
        rows.append(("weight", f"{weight:g}"))
    columns = ("group", "place", "text", "score", "log_p", "total")
    if options.format == "tsv":
        print(tab_separated(columns))
    for key, group in scored.items():
        place = choose(group, weight)
        one = group[place]
        values = (key, place + 1, one.text, one.score, one.log_p, one.score + weight * one.log_p)
        if options.format == "tsv":
            print(tab_separated(values))
        else:
            known = {} if one.errors is None else {"errors": one.errors}
            print(to_json({**dict(zip(columns, values, strict=True)), **known}, ascii=False))
    sys.stdout.flush()
    if judged:
        oracle = sum(min(one.errors for one in group if one.errors is not None) for group in judged)
        rows.append(
            (
                f"errors in {len(judged):,}",
                f"{errors(judged, weight):g}   (by their own scores {errors(judged, 0.0):g}, at best {oracle:g})",
            )
        )
    print(labelled(rows, sys.stderr), file=sys.stderr)


def _groups(lines: Iterable[str], name: str) -> dict[str, list[Hypothesis]]:
    """The hypotheses in lines by group: group<TAB>score<TAB>text[<TAB>errors], or objects with these keys."""
    groups: dict[str, list[Hypothesis]] = {}
    for number, line in numbered(lines, name):
        where = f"{name}, line {number}"
        if line.lstrip().startswith("{"):
            found: Mapping[str, Any] = _object(line, where)
        else:
            parts: Sequence[str] = line.split("\t")
            if len(parts) not in (3, 4):
                raise ConfigError(
                    f"{where}: {len(parts)} columns; write group<TAB>score<TAB>text, and <TAB>errors where they are "
                    "known, or JSON with these keys"
                )
            found = dict(zip(("group", "score", "text", "errors"), parts, strict=False))
        if missing := [key for key in ("group", "score", "text") if key not in found]:
            raise ConfigError(f"{where}: {missing[0]} is missing; each has group, score and text, and may have errors")
        errors_there = found.get("errors")
        one = Hypothesis(
            str(found["text"]).strip(),
            _number(found["score"], "score", where),
            None if errors_there in (None, "") else _number(errors_there, "errors", where),
        )
        if not one.text:
            raise ConfigError(f"{where}: its text is empty")
        groups.setdefault(str(found["group"]), []).append(one)
    return groups


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({error})") from None
    assert isinstance(found, dict)  # it begins with {
    return found


def _number(value: Any, key: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise ConfigError(f"{where}: {key}={value!s:.80} is no finite number")
    return number
