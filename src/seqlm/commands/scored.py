"""The records of `seqlm score`: of tokens, words, lines and the whole, as JSON, with tabs, or as SRILM prints them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config.metrics import readable
from ..files import to_json

if TYPE_CHECKING:
    from ..evaluation.scored_line import ScoredLine

BITS = 1 / math.log(2)  # in a nat
DECIMAL = math.log(10)  # nats in a decimal digit
COLUMNS = {
    "token": ("line", "token", "text", "id", "log_p", "surprisal", "rank", "entropy", "unknown"),
    "word": ("line", "word", "text", "log_p", "surprisal", "tokens", "unknown"),
    "line": ("line", "text", "log_p", "surprisal", "tokens", "words", "unknown", "ppl"),
    "total": (
        "lines",
        "tokens",
        "words",
        "unknown",
        "log_p",
        "surprisal",
        "loss",
        "ppl",
        "ppl_without_ends",
        "ppl_word",
    ),
}


@dataclass
class Totals:
    """Sums over lines: log-probabilities in nats, and those of unknown words and of the ends of lines by themselves."""

    lines: int = 0
    tokens: int = 0
    words: int = 0  # without the ends of lines
    ends: int = 0
    tokens_ends: int = 0  # with white space that no word stands behind
    unknown: int = 0  # words
    log_p: float = 0.0
    log_p_ends: float = 0.0
    log_p_unknown: float = 0.0

    def add(self, line: ScoredLine) -> None:
        """Add a line."""
        self.lines += 1
        self.tokens += line.scored
        self.log_p += line.total
        for word in line.words:
            self.unknown += word.unknown
            if math.isnan(word.log_p):
                continue
            if word.is_end:
                self.ends += 1
                self.tokens_ends += word.end - word.start
                self.log_p_ends += word.log_p
            else:
                self.words += 1
                self.log_p_unknown += word.log_p * word.unknown

    def record(self) -> dict[str, Any]:
        """All of it as a record."""
        inner = self.tokens - self.tokens_ends
        return {
            "lines": self.lines,
            "tokens": self.tokens,
            "words": self.words,
            "unknown": self.unknown,
            **_probability(self.log_p),
            "loss": -self.log_p / self.tokens if self.tokens else math.nan,
            "ppl": _ppl(self.log_p, self.tokens),
            "ppl_without_ends": _ppl(self.log_p - self.log_p_ends, inner),
            "ppl_word": _ppl(self.log_p, self.words + self.ends),
        }

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        found = self.record()
        return [
            ("lines", f"{self.lines:,}"),
            ("tokens", f"{self.tokens:,}"),
            ("nats/token", f"{found['loss']:.4f}"),
            ("perplexity", f"{readable(found['ppl'])}   (without ends of lines {readable(found['ppl_without_ends'])})"),
            ("per word", f"{readable(found['ppl_word'])}   ({self.words:,} words, {self.ends:,} ends of lines)"),
            ("unknown words", f"{self.unknown:,}"),
        ]

    def srilm(self) -> str:
        """Two lines as `ngram -ppl` prints them: unknown words count neither as words nor in the sum."""
        log10 = (self.log_p - self.log_p_unknown) / DECIMAL
        known = self.words - self.unknown
        counts = (known + self.ends, known)
        ppl, ppl1 = (f"{10 ** min(300.0, -log10 / count):.6g}" if count else "undefined" for count in counts)
        return (
            f"{self.lines} sentences, {self.words} words, {self.unknown} OOVs\n"
            f"0 zeroprobs, logprob= {log10:.6g} ppl= {ppl} ppl1= {ppl1}"
        )


def _ppl(log_p: float, count: int) -> float:
    return math.exp(min(700.0, -log_p / count)) if count else math.nan


def records(line: ScoredLine, number: int, level: str) -> Iterator[dict[str, Any]]:
    """The records of a line, whose number begins with 1. Probabilities in nats, surprisal and entropy in bits."""
    if level == "token":
        for place, (text, token, log_p) in enumerate(zip(line.pieces, line.ids, line.log_p, strict=True)):
            record = {"line": number, "token": place + 1, "text": text, "id": int(token), **_probability(log_p)}
            if line.rank is not None and line.entropy is not None and not math.isnan(log_p):
                record |= {"rank": int(line.rank[place]), "entropy": BITS * float(line.entropy[place])}
            yield {**record, "unknown": bool(line.unknown[place])}
    elif level == "word":
        for place, word in enumerate(line.words, start=1):
            record = {"line": number, "word": place, "text": word.text, **_probability(word.log_p)}
            yield {**record, "tokens": word.end - word.start, "unknown": word.unknown}
    elif level == "line":
        words = [word for word in line.words if not word.is_end]
        yield {
            "line": number, "text": line.text, **_probability(line.total), "tokens": line.scored,
            "words": len(words), "unknown": sum(word.unknown for word in words), "ppl": _ppl(line.total, line.scored),
        }  # fmt: skip


def _probability(log_p: float) -> dict[str, Any]:
    known = not math.isnan(log_p)
    return {"log_p": float(log_p) if known else None, "surprisal": -BITS * float(log_p) if known else None}


def as_text(record: Mapping[str, Any], level: str, format: str) -> str:
    """A record as a line: JSON, or columns with tabs between them."""
    if format == "jsonl":
        return to_json(dict(record), ascii=False)
    return tab_separated(record.get(column) for column in COLUMNS[level])


def tab_separated(values: Iterable[Any]) -> str:
    """A row; a tab or the end of a line in a text is written as `\\t` and `\\n`."""
    return "\t".join(map(_cell, values))


def header(level: str) -> str:
    """The names of the columns."""
    return "\t".join(COLUMNS[level])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    text = f"{value:.6f}" if isinstance(value, float) else str(value)
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def srilm(line: ScoredLine) -> str:
    """A line as `ngram -ppl -debug 2` prints it: each word with its probability, then the sums of the line."""
    totals = Totals()
    totals.add(line)
    shown = [line.text.strip()]
    before: Sequence[str] = ["<s>"]
    for word in line.words:
        text = "</s>" if word.is_end else "<unk>" if word.unknown else word.text.strip()
        context = before[-1] + (" ..." if len(before) > 1 else " ")
        if word.unknown:
            found = "[OOV] 0 [ -inf ]"
        elif math.isnan(word.log_p):
            found = "[not scored]"
        else:
            found = f"[rnn] {math.exp(word.log_p):.6g} [ {word.log_p / DECIMAL:.6g} ]"
        shown.append(f"\tp( {text} | {context}) \t= {found}")
        before = [*before, text]
    return "\n".join([*shown, totals.srilm(), ""])
