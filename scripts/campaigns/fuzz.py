"""Damaged and made-up inputs of every reader: an error of ours or none, never a traceback."""

from __future__ import annotations

import json
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .hooks import replace
from .runner import Campaign, Case

INPUTS = 500  # of a case
TOKENS = (
    b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\r", b"\n\n", b"\xe2\x80\xa8", b"\xc2\x85", b"\xc2\xa0",
    b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\t", b"\t\t", b"  ", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"=",
    b"-", b"~", b"null", b"true", b"NaN", b"1e999", b"-0", b"9" * 40, b"9" * 5000, b"\\u0000", b"\\ud800", b"${a}",
    b"${oc.env:HOME}", b"!!python/name:os.system ", b"&a ", b"*a", b"<<: ", b"_target_", b"a" * 3000, b"[" * 400,
    b'{"a":' * 400, b"-DOCSTART-",
)  # fmt: skip


class Reader(NamedTuple):
    """A reader, and inputs that it takes; made-up ones are these, damaged."""

    name: str  # of the file
    seeds: tuple[bytes, ...]
    read: Callable[[Path, bytes], object]


def case(case: Case) -> None:
    from seqlm.errors import SeqlmError

    readers, seen = _readers(), set[str]()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    for number in range(INPUTS):
        reader = readers[(case.number + number) % len(readers)]
        data = _damaged(case.rng, reader.seeds)
        path = case.folder / f"{number % 10}" / reader.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        case.count("inputs")
        try:
            sys.setrecursionlimit(1000)
            reader.read(path, data)
        except (SeqlmError, OSError):
            case.count("refused")
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = next((frame for frame in reversed(frames) if "/seqlm/" in frame.filename), frames[-1])
            where = f"{reader.name}: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            if where not in seen:  # one input of a kind is enough
                case.fail("traceback", f"{where}: {str(error)[:80]}: {_short(data)}")
            seen.add(where)
        path.unlink()


def _short(data: bytes) -> str:
    return repr(data[:150]) + ("..." if len(data) > 150 else "")


def _damaged(rng: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """A seed with a few changes: bits, tokens put in or in place of others, parts doubled, moved, or lost."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 5, 20, 200)))
        change = rng.randrange(6)
        if change == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at:at] = rng.choice(TOKENS)
        elif change == 2:
            data[at:end] = rng.choice(TOKENS)
        elif change == 3:
            data[at:at] = data[at:end]
        elif change == 4:
            del data[at:end]
        else:
            data[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
    return bytes(data)


def _exhaust(made: Iterable[object]) -> None:
    for number, _ in enumerate(made):
        if number > 200:
            break


def _readers() -> list[Reader]:
    from seqlm.config.flags import check_words
    from seqlm.config.values import load_config
    from seqlm.config.words import overrides, quoted_paths
    from seqlm.config.yaml_files import read_yaml
    from seqlm.data.sources.conll import Conll
    from seqlm.data.sources.features import Features
    from seqlm.data.sources.iob import Iob
    from seqlm.data.sources.labelled import Labelled
    from seqlm.data.sources.parallel import Parallel
    from seqlm.data.sources.text import TextCorpus
    from seqlm.data.tokenizers.saved import load_tokenizer
    from seqlm.runs import checkpoint, finding, upkeep
    from seqlm.runs.folder import RunFolder

    def text(path: Path, data: bytes) -> None:
        corpus = TextCorpus(path=str(path))
        for split in corpus.splits():
            _exhaust(corpus.read(split))

    def labelled(path: Path, data: bytes) -> None:
        _examples(Labelled(path=str(path)))

    def conll(path: Path, data: bytes) -> None:
        _examples(Conll(train=str(path), valid=str(path)))

    def tokenizer(path: Path, data: bytes) -> None:
        load_tokenizer(path)

    def yaml(path: Path, data: bytes) -> None:
        read_yaml(path)

    def config(path: Path, data: bytes) -> None:
        load_config(path)

    def words(path: Path, data: bytes) -> None:
        typed = data.decode("utf-8", "surrogateescape").split("\n")
        quoted_paths(overrides([word for word in typed if word]))

    def flags(path: Path, data: bytes) -> None:
        check_words([word for word in data.decode("utf-8", "surrogateescape").split("\n") if word])

    def info(path: Path, data: bytes) -> None:
        (path.parent / "config.yaml").touch()
        run = RunFolder.open(path.parent)
        run.status(run.info())

    def records(path: Path, data: bytes) -> None:
        RunFolder(path.parent).records()

    def result(path: Path, data: bytes) -> None:
        run = RunFolder(path.parent)
        run.eval_result("valid")
        run.times_scored("valid")

    def meta(path: Path, data: bytes) -> None:
        step = path.parent / "step-000000001"
        step.mkdir(exist_ok=True)
        (step / "meta.json").write_bytes(data)
        upkeep.prune(path.parent, keep_last=1, keep_best=1, keep_every=None)
        checkpoint.verify(step)

    def pointer(path: Path, data: bytes) -> None:
        finding.locate(path.parent, "best")

    def manifest(path: Path, data: bytes) -> None:
        checkpoint.verify(path.parent)

    def arrays(path: Path, data: bytes) -> None:
        _examples(Features(path=str(path)))

    def pairs(path: Path, data: bytes) -> None:
        for split in ("train", "valid"):
            (path.parent / f"{split}.src").write_bytes(data)
            (path.parent / f"{split}.tgt").write_bytes(data[::-1] if len(data) % 7 == 0 else data)
        _examples(Parallel(path=str(path.parent)))

    def iob(path: Path, data: bytes) -> None:
        for split in ("train", "valid"):
            (path.parent / split).mkdir(exist_ok=True)
            for name in ("seq.in", "seq.out"):
                (path.parent / split / name).write_bytes(data)
        _examples(Iob(path=str(path.parent)))

    lines = b"one line of text\nand another, of words\n" * 20
    table = b"yes\tsome words\nno\tother words\n" * 8
    objects = b'{"text": "some words", "label": "yes"}\n{"text": ["a", "b"], "label": [1, 2.5]}\n' * 6
    columns = b"# a comment\nEU B-ORG\nrejects O\n\n-DOCSTART- O\n\na B-X\nb I-X\n" * 3
    run = b'{"status": "finished", "host": "h", "metrics": {"valid/loss": 1.5}, "steps": 3, "parameters": {"total": 9}}'
    record = b'{"step": 3, "tokens": 9, "seconds": 0.5, "train/loss": 1.5}\n' * 5
    return [
        Reader("text.txt", (lines, b"a", b""), text),
        Reader("labels.tsv", (table, b"label\ttext\n" + table, table.replace(b"some", b'"so"')), labelled),
        Reader("labels.jsonl", (objects,), labelled),
        Reader("labels.txt", (table,), labelled),
        Reader("tags.conll", (columns, columns.replace(b" ", b"\t")), conll),
        Reader("tokenizer.json", _tokenizers(), tokenizer),
        Reader("some.yaml", (b"a: 1\nb: [1, {c: d}]\n# x\ne: ${a}\n", b"defaults:\n  - a\n  - _self_\nx: 1\n"), yaml),
        Reader("config.yaml", (_config(),), config),
        Reader(
            "words", (b"optim.lr=0.1\nmodel=lstm\ndata.path=a b.txt\n+x=[1,2]\n~y\n-m", b"model={a: 1}\n'k=v'"), words
        ),
        Reader("flags", (b"--config-dir\nx\n--cfg\njob\n-m\noptim.lr=1,2", b"--help"), flags),
        Reader("run.json", (run,), info),
        Reader("metrics.jsonl", (record,), records),
        Reader("eval-valid.json", (b'{"split": "valid", "loss": 1.5, "times_scored": 2}',), result),
        Reader("meta.json", (b'{"format": 1, "step": 1, "rank": [1.5, 2.5], "averaged": false}',), meta),
        Reader("best", (b"step-000000001\n",), pointer),
        Reader("MANIFEST.sha256", (b"".join(b"0" * 64 + b"  " + name + b"\n" for name in _files()),), manifest),
        Reader("vectors.npz", _arrays(), arrays),
        Reader("pairs", (lines, b"a\n\nb\n"), pairs),
        Reader("iob", (b"a b c\nd e\n", b"O B-x I-x\nO O\n"), iob),
    ]


def _examples(source: Any) -> None:
    for split in source.splits():
        _exhaust(source.examples(split))


def _files() -> tuple[bytes, ...]:
    return (b"model.safetensors", b"state.pt", b"meta.json")


def _tokenizers() -> tuple[bytes, ...]:
    """Files of every kind of tokenizer."""
    import tempfile

    from seqlm.data.tokenizers.examples import ExampleTokenizer
    from seqlm.data.tokenizers.text import ByteTokenizer, CharTokenizer, WordTokenizer

    examples = [{"words": "a b c", "label": "yes"}, {"words": "a d", "label": "no"}]
    made = [
        *(kind().fit(["some text\nof two lines\n"]) for kind in (CharTokenizer, WordTokenizer, ByteTokenizer)),
        ExampleTokenizer().fit(examples),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number, tokenizer in enumerate(made):
            tokenizer.save(Path(folder) / str(number))
        return tuple(path.read_bytes() for path in sorted(Path(folder).iterdir()))


def _config() -> bytes:
    """A saved configuration."""
    from dataclasses import asdict

    import yaml

    from seqlm.config.compose import compose_words

    return yaml.safe_dump(asdict(compose_words(["threads=1"])[0])).encode()


def _arrays() -> tuple[bytes, ...]:
    import io

    import numpy

    made = []
    for arrays in (
        {"features": numpy.zeros((12, 3, 2), numpy.float32), "labels": numpy.array(["a", "b"] * 6)},
        {"features": numpy.zeros((20, 2)), "lengths": numpy.array([2] * 10), "values": numpy.zeros(10)},
    ):
        handle = io.BytesIO()
        numpy.savez(handle, **arrays)  # type: ignore[arg-type]
        made.append(handle.getvalue())
    return tuple(made)


def _let_through() -> None:
    def read(run: Any, split: str) -> Any:
        return json.loads((run.path / f"eval-{split}.json").read_text(encoding="utf-8"))

    replace("seqlm.runs.folder:RunFolder.eval_result", read)


CAMPAIGN = Campaign(
    "fuzz",
    "damaged and made-up inputs of every reader",
    case,
    sizes={"short": 4, "full": 200},
    least={"inputs": 100_000},
    mutants={"let-json-errors-through": _let_through},
)
