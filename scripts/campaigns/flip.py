"""Flipped bits and cut files of runs and caches: refused, repaired with a line, or of no consequence; never silent."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from .hooks import at_call, replace
from .runner import Campaign, Case
from .settings import difference, outcome, training, words_of

FLIPS = 10  # of a case
LINES = 14  # of a refusal at most
# Tasks and settings whose runs are damaged; they are stopped before their end, so that they can be resumed.
RUNS = [
    ("lm", "bf16"),
    ("lm", "averaging"),
    ("tagging", "dropout"),
    ("seq2seq", "plain"),
    ("classification", "retention"),
]
VERBS = ("resume", "resume", "eval", "eval", "infer", "runs", "runs", "compare")
UNEQUAL = ("tokens_per_s", "seconds", "times_scored")  # of a result: what no two calls share
STOP_AT = 21  # the step before which the run is stopped


def case(case: Case) -> None:
    task, setting = RUNS[case.number % len(RUNS)]
    source = case.once(f"stopped-{task}-{setting}", lambda folder: _prepare(case, task, setting, folder))
    for number in range(FLIPS):
        place = case.folder / str(number)
        shutil.copytree(source / "place", place)
        verb = VERBS[case.rng.randrange(len(VERBS))]
        damaged, how = _damage(case, place)
        case.count("flips")
        _judge(case, source, place, verb, f"{verb}, {task} {setting}, {damaged.relative_to(place)}, {how}")
        shutil.rmtree(place)


def _words(verb: str, task: str) -> Sequence[object]:
    """A command about the run in the working folder."""
    return {
        "resume": ["resume", "run"],
        "eval": ["eval", "run"],
        "infer": ["sample", "run", "tokens=8"] if task == "lm" else ["predict", "run", "-"],
        "runs": ["runs", "."],
        "compare": ["compare", "run", "other"],
    }[verb]


def _prepare(case: Case, task: str, setting: str, folder: Path) -> None:
    """A stopped run with its cache, in `place`, and what each verb answers about it, in `answers.json`."""
    place, answers = folder / "place", {}
    place.mkdir()
    stop = lambda: at_call("seqlm.training.loop:Loop._step", STOP_AT, lambda: signal.raise_signal(signal.SIGTERM))  # noqa: E731
    env = {"SEQLM_CACHE": str(place / "cache")}
    done = case.run(training(case, words_of(case, task, setting), place), folder=place, env=env, before=stop)
    if done.code != 128 + signal.SIGTERM:
        raise AssertionError(done.tail(30))
    shutil.copytree(place / "run", place / "other")
    for verb in dict.fromkeys(VERBS):
        copy = folder / "copy"
        shutil.copytree(place, copy)
        code, text, result = _answer(case, copy, verb, task)
        if code:
            raise AssertionError(f"{verb}: {code} {text}")
        answers[verb] = (text, result)
        shutil.rmtree(copy)
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


def _answer(case: Case, place: Path, verb: str, task: str) -> tuple[int, str, str]:
    """Exit code of a verb, what it printed, and its result."""
    env = {"SEQLM_CACHE": str(place / "cache")}
    done = case.run(_words(verb, task), folder=place, env=env, input=b"a b c\n")
    text = _plain(done.text.replace(str(place), "PLACE"))
    if done.code or "Traceback" in done.text:
        return done.code or 1, done.text, ""
    if verb == "resume":
        found = outcome(place / "run")
        del found["samples"]  # pages for people, which nothing reads
        return 0, text, json.dumps(found)
    if verb == "eval":
        kept = place / "run" / "eval-valid.json"
        if not kept.is_file():  # the data are other data now, which is said
            return 0, text, ""
        result = json.loads(kept.read_text(encoding="utf-8"))
        return 0, text, json.dumps({key: value for key, value in result.items() if key not in UNEQUAL})
    return 0, text, text


def _plain(text: str) -> str:
    """Without what no two calls share."""
    text = re.sub(r"\d+(\.\d+)?( ?(s|min|h|ms|tokens/s|MB)\b)|[\d,.]+ tokens/s|\d\d:\d\d(:\d\d)?", "N", text)
    return re.sub(r"  +", "  ", text)


def _damage(case: Case, place: Path) -> tuple[Path, str]:
    """Flip a bit of a file, or cut it."""
    files = sorted(
        path
        for part in ("run", "cache")
        for path in (place / part).rglob("*")
        if path.is_file() and path.stat().st_size
    )
    path = case.rng.choice(files)
    data = bytearray(path.read_bytes())
    if case.rng.random() < 0.2:
        size = case.rng.randrange(len(data))
        path.write_bytes(data[:size])
        return path, f"cut to {size} of {len(data)} bytes"
    at, bit = case.rng.randrange(len(data)), case.rng.randrange(8)
    before = bytes(data[max(0, at - 8) : at + 8])
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return path, f"bit {bit} of byte {at}: {before!r} -> {bytes(data[max(0, at - 8) : at + 8])!r}"


def _judge(case: Case, source: Path, place: Path, verb: str, where: str) -> None:
    task = where.split(", ")[1].split()[0]
    wanted_text, wanted = json.loads((source / "answers.json").read_text(encoding="utf-8"))[verb]
    code, text, result = _answer(case, place, verb, task)
    if code:
        lines = text.strip().splitlines()
        if "Traceback" in text or code < 0:
            case.fail("traceback", f"{where}: exit {code}: {' | '.join(lines[-4:])}")
        elif code > 3 or len(lines) > LINES:
            case.fail("long refusal", f"{where}: exit {code}: {' | '.join(lines[-4:])}")
        else:
            case.count("refused")
    elif result == wanted:
        case.count("equal")
    elif _told(wanted_text, text):
        case.count("told")
    else:
        case.fail("silent", f"{where}: {_first_difference(verb, wanted, result)}")


def _told(wanted: str, text: str) -> bool:
    """Whether there is a line about damage that an undamaged run does not print."""
    new = set(text.splitlines()) - set(wanted.splitlines())
    return any(
        re.search(r"damaged|made again|does not match|cannot be read|kept aside|left out|not the data", line)
        for line in new
    )


def _first_difference(verb: str, wanted: str, result: str) -> str:
    if verb == "resume":
        return difference(json.loads(wanted), json.loads(result))
    pairs = zip(wanted.splitlines(), result.splitlines(), strict=False)
    return next((f"{one!r} -> {other!r}" for one, other in pairs if one != other), "another length")[:400]


def _believe() -> None:
    replace("seqlm.runs.checkpoint:verify", lambda path: "")


MUTANTS: dict[str, Callable[[], None]] = {"no-manifest": _believe}
CAMPAIGN = Campaign(
    "flip",
    "a flipped bit or a lost end of any file of a run or a cache, and then a verb that reads it",
    case,
    sizes={"short": 1, "full": 305, "mutant": 10},
    least={"flips": 3000},
    mutants=MUTANTS,
)
