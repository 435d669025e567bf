"""Files that somebody else wrote: nothing in them is executed, nothing is overwritten, nothing is read without end."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import socket
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqlm.files import sha256_of

from .hooks import mutate, replace
from .runner import Campaign, Case
from .settings import training, words_of

SECONDS, MEGABYTES = 20.0, 1024.0
ROOM = 3 << 30  # bytes of address space that a job may add: an endless read ends
STRIDE = 635  # shares no divisor with the number of pairs: any row of cases is of all kinds
TREASURE = "not to be overwritten\n"


class Target(NamedTuple):
    """A file, below the folder of the case, and commands that read it."""

    path: str
    commands: Sequence[Sequence[str]]


RUN = (["eval", "run"], ["resume", "run", "train.steps=26"], ["sample", "run", "tokens=4"])
LIST = (["runs", "."], ["compare", "run", "other"])
SMALL = ["train.steps=2", "model.hidden_size=8", "train.batch_size=4", "threads=1", "engine=scan"]
TRAIN = ["train", *SMALL, "run.name=new"]
LABELLED = [*TRAIN, "task=classification", "model=classifier", "data=labelled"]
STEP = "run/checkpoints/step-000000024"
TARGETS = (
    Target("run/config.yaml", [*RUN, *LIST]),
    Target("run/run.json", [*RUN[:2], *LIST]),
    Target("run/metrics.jsonl", [RUN[1], *LIST]),
    Target("run/tokenizer.json", RUN),
    Target("run/.lock", [RUN[1], LIST[0], ["rm", "run", "--yes"]]),
    Target("run/eval-valid.json", [RUN[0], *LIST]),
    Target("run/samples", RUN[:2]),
    Target("run/samples/step-000000026.txt", RUN[1:2]),
    Target("run/checkpoints", RUN),
    Target("run/checkpoints/last", RUN),
    Target("run/checkpoints/best", RUN),
    Target(STEP, RUN),
    Target(f"{STEP}/meta.json", RUN),
    Target(f"{STEP}/MANIFEST.sha256", RUN),
    Target(f"{STEP}/state.pt", RUN[1:2]),
    Target(f"{STEP}/model.safetensors", RUN),
    Target("cache", RUN[:2]),
    Target("cache/*/tokens.bin", RUN[:2]),
    Target("cache/*/counts.json", RUN[:2]),
    Target("cache/*/tokenizer.json", [[*TRAIN, "data=markov", "data.tokens=600", "data.symbols=5"]]),
    Target("given/text.txt", [[*TRAIN, "data=text", "data.path=given/text.txt"], ["predict", "run", "given/text.txt"]]),
    Target("given/labels.tsv", [[*LABELLED, "data.path=given/labels.tsv"]]),
    Target("given/labels.jsonl", [[*LABELLED, "data.path=given/labels.jsonl"]]),
    Target("given/tags.conll", [[*TRAIN, "task=tagging", "model=tagger", "data=conll", "data.train=given/tags.conll",
                                 "data.valid=given/tags.conll"]]),
    Target("given/vectors.npz", [[*LABELLED[:-1], "data=features", "data.path=given/vectors.npz"]]),
    Target("given/ptb.tgz", [[*TRAIN, "data=ptb", "data.path=given/ptb.tgz"]]),
    Target("given/experiment/evil.yaml", [[*TRAIN, "--config-dir", "given", "+experiment=evil"],
                                          [*TRAIN, "--config-dir", "given", "experiment=evil"]]),
)  # fmt: skip


def case(case: Case) -> None:
    target, attack = pairs()[case.number]
    source = case.once("finished", lambda folder: _prepare(case, folder))
    here = case.folder / "here"
    shutil.copytree(source, here, symlinks=True)
    (case.folder / "treasure").write_text(TREASURE, encoding="utf-8")
    (case.folder / "treasures").mkdir()
    (case.folder / "treasures" / "one").write_text(TREASURE, encoding="utf-8")
    path = next(iter(sorted(here.glob(target.path))), here / target.path)
    ATTACKS[attack](Scene(path, case.folder, case))
    if path.parent.name.startswith("step-") and path.is_file() and not path.is_symlink():
        _sign(path.parent)
    case.count("hostile files")
    for words in target.commands if attack in CODE else [case.rng.choice(list(target.commands))]:
        _judge(case, here, words, f"{attack} as {target.path}, {' '.join(words[:1])}")


def pairs() -> list[tuple[Target, str]]:
    """All attacks in all places: first configs that name code, and pipes in the place of short files."""
    first = [(target, attack) for attack in CODE for target in TARGETS if target.path.endswith(".yaml")]
    first += [(target, "a pipe") for target in TARGETS if target.path in ("run/run.json", "run/checkpoints/best")]
    all_pairs = [(target, attack) for attack in ATTACKS for target in TARGETS]
    drawn = [all_pairs[number * STRIDE % len(all_pairs)] for number in range(len(all_pairs))]
    return [*first, *(pair for pair in drawn if pair not in first)]


def _prepare(case: Case, folder: Path) -> None:
    """A finished run with its cache, and harmless files of every kind."""
    env = {"SEQLM_CACHE": str(folder / "cache")}
    for name in ("run", "other"):
        done = case.run(training(case, words_of(case, "lm"), folder, name), folder=folder, env=env)
        if done.code:
            raise AssertionError(done.tail(20))
    done = case.run(["eval", "run"], folder=folder, env=env)
    _unseal(folder / "run")
    given = folder / "given"
    (given / "experiment").mkdir(parents=True)
    (given / "text.txt").write_text("".join(f"line {number} of it\n" for number in range(200)), encoding="utf-8")
    (given / "labels.tsv").write_text("yes\ta b\nno\tc d\n" * 40, encoding="utf-8")
    (given / "labels.jsonl").write_text('{"text": "a b", "label": "yes"}\n' * 40, encoding="utf-8")
    (given / "tags.conll").write_text("a B-X\nb O\n\n" * 20, encoding="utf-8")
    for name in ("vectors.npz", "ptb.tgz", "experiment/evil.yaml"):
        (given / name).write_bytes(b"")


def _judge(case: Case, here: Path, words: Sequence[str], where: str) -> None:
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    env = {"SEQLM_CACHE": str(here / "cache")}
    done = case.run(words, folder=here, env=env, before=_bounds, timeout=SECONDS + 5, input=b"a b\n")
    if (case.folder / "executed").exists():
        case.fail("executed", where)
    kept = [case.folder / "treasure", case.folder / "treasures" / "one"]
    if any(not path.is_file() or path.read_text(encoding="utf-8") != TREASURE for path in kept):
        case.fail("overwritten", where)
    if done.seconds > SECONDS:
        case.fail("slow", f"{where}: {done.seconds:.0f} s: {done.tail()}")
    elif done.megabytes - base > MEGABYTES:
        case.fail("large", f"{where}: {done.megabytes - base:.0f} MB: {done.tail()}")
    elif not done.clean:
        case.fail("traceback", f"{where}: {done.tail(5)}")
    case.count("refused" if done.code else "accepted")


def _bounds() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))


def _unseal(run: Path) -> None:
    """Take the digests off, as of a run of an older version: whoever writes a run is free to."""
    from seqlm.runs.folder import CHECKSUM

    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in info.items() if key not in ("sha256", CHECKSUM)}
    (run / "run.json").write_text(json.dumps(kept), encoding="utf-8")
    for step in run.glob("checkpoints/step-*"):
        meta = json.loads((step / "meta.json").read_text(encoding="utf-8"))
        old = {key: meta[key] for key in ("format", "step", "rank", "averaged", "seqlm")}
        (step / "meta.json").write_text(json.dumps(old), encoding="utf-8")
        _sign(step)


def _sign(step: Path) -> None:
    """A manifest that holds: whoever writes a checkpoint can write it, too."""
    files = ("model.safetensors", "state.pt", "meta.json")
    lines = [f"{sha256_of(step / name)}  {name}\n" for name in files]
    (step / "MANIFEST.sha256").write_text("".join(lines), encoding="utf-8")


class Scene(NamedTuple):
    """Where an attack takes place."""

    path: Path  # of the file that is replaced
    folder: Path
    case: Case

    def clear(self) -> Path:
        """The path, with nothing there."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        self.path.unlink(missing_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path

    def write(self, data: bytes | str) -> None:
        self.clear().write_bytes(data.encode() if isinstance(data, str) else data)

    @property
    def command(self) -> str:
        """A shell command that leaves a trace."""
        return f"touch {self.folder}/executed"

    def change_json(self, change: Callable[[Any], Any]) -> None:
        """Change what the file holds, if that is a mapping; else write what `change` makes of an empty mapping."""
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            value = {}
        self.write(json.dumps(change(value if isinstance(value, dict) else {})))


class _Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def _torch_pickle(scene: Scene) -> None:
    import torch

    made = io.BytesIO()
    torch.save({"progress": _Payload(scene.command)}, made)
    scene.write(made.getvalue())


def _array_pickle(scene: Scene) -> None:
    import numpy

    made = io.BytesIO()
    numpy.savez(made, features=numpy.array([_Payload(scene.command)], dtype=object), labels=numpy.array(["a"]))
    scene.write(made.getvalue())


def _array_bomb(scene: Scene) -> None:
    """An array of a terabyte by its header."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (131072, 1048576), }"
    header += b" " * (118 - len(header)) + b"\n"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("features.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
    scene.write(made.getvalue())


def _zip_bomb(scene: Scene) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("features.npy", "ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"):
            with archive.open(name, "w", force_zip64=True) as member:
                for _ in range(256):
                    member.write(bytes(1 << 20))
    scene.write(made.getvalue())


def _tar(fill: Callable[[tarfile.TarFile, Scene], None]) -> Callable[[Scene], None]:
    def attack(scene: Scene) -> None:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as archive:
            fill(archive, scene)
        scene.write(made.getvalue())

    return attack


def _outside(archive: tarfile.TarFile, scene: Scene) -> None:
    for name in ("../../treasure", str(scene.folder / "treasure"), "data/ptb.train.txt"):
        member = tarfile.TarInfo(name)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"bad\n"))


def _links(archive: tarfile.TarFile, scene: Scene) -> None:
    for split, kind in (("train", tarfile.SYMTYPE), ("valid", tarfile.LNKTYPE), ("test", tarfile.FIFOTYPE)):
        member = tarfile.TarInfo(f"data/ptb.{split}.txt")
        member.type, member.linkname = kind, "/dev/zero"
        archive.addfile(member)


def _members(archive: tarfile.TarFile, scene: Scene) -> None:
    for number in range(60_000):
        archive.addfile(tarfile.TarInfo(f"{number}"))


def _long_names(archive: tarfile.TarFile, scene: Scene) -> None:
    archive.addfile(tarfile.TarInfo("a" * (60 << 20)))


def _safetensors_bomb(scene: Scene) -> None:
    scene.write((1 << 60).to_bytes(8, "little") + b"{}")


def _target(where: Callable[[str], dict[str, Any]]) -> Callable[[Scene], None]:
    """A config that names code, and trusts it."""

    def attack(scene: Scene) -> None:
        import yaml

        try:
            config = yaml.safe_load(scene.path.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError):
            config = {}
        config = config if isinstance(config, dict) else {}
        scene.write(
            "# @package _global_\n" + yaml.safe_dump({**config, **where(scene.command), "trust": ["os.", "sub"]})
        )

    return attack


def _fifo(scene: Scene) -> None:
    os.mkfifo(scene.clear())


def _socket(scene: Scene) -> None:
    here = os.getcwd()
    os.chdir(scene.clear().parent)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(scene.path.name)
    os.chdir(here)


def _link(aim: str) -> Callable[[Scene], None]:
    return lambda scene: scene.clear().symlink_to(aim.replace("FOLDER", str(scene.folder)))


def _sparse(scene: Scene) -> None:
    scene.write(b"")
    os.truncate(scene.path, 20 << 30)


def _content(make: Callable[[], bytes | str]) -> Callable[[Scene], None]:
    return lambda scene: scene.write(make())


def _laughs() -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    return "\n".join(lines) + "\n"


CODE: dict[str, Callable[[Scene], None]] = {
    "a target in optim": _target(lambda command: {"optim": {"_target_": "os.system", "command": command}}),
    "a target in averaging": _target(lambda command: {"averaging": {"_target_": "os.system", "command": command}}),
    "a target in a callback": _target(lambda c: {"callbacks": [{"_target_": "os.system", "command": c}]}),
    "a target in the data": _target(lambda c: {"data": {"_target_": "subprocess.getoutput", "cmd": c}}),
}
ATTACKS: dict[str, Callable[[Scene], None]] = {
    **CODE,
    "a pipe": _fifo,
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to /dev/full": _link("/dev/full"),
    "a link to a file that must stay": _link("FOLDER/treasure"),
    "a link to a folder that must stay": _link("FOLDER/treasures"),
    "a link to itself": lambda scene: scene.clear().symlink_to(scene.path.name),
    "a link to nothing": _link("nothing"),
    "a socket": _socket,
    "a folder": lambda scene: scene.clear().mkdir(),
    "twenty gigabytes of nothing": _sparse,
    "a billion laughs": _content(_laughs),
    "a circle": _content("a: &a [*a]\nb: &b {c: *b}\n".encode),
    "deep brackets": _content(lambda: "[" * 200_000),
    "deep JSON": _content(lambda: '{"a":' * 100_000 + "1" + "}" * 100_000),
    "a long number": _content(lambda: '{"step": ' + "9" * 100_000 + "}"),
    "a long line": _content(lambda: "a " * (30 << 20)),
    "numbers that are none": _content(lambda: '{"step": NaN, "seconds": 1e999, "format": -Infinity}'),
    "a list": _content(lambda: "[1, 2, 3]\n"),
    "bytes that are no text": _content(lambda: bytes(range(256)) * 64),
    "nothing": _content(lambda: b""),
    "wrong types": lambda scene: scene.change_json(lambda value: {key: [{}] for key in value}),
    "texts for all": lambda scene: scene.change_json(lambda value: {key: "../../treasure" for key in value}),
    "a pickle": lambda scene: scene.write(pickle.dumps(_Payload(scene.command))),
    "a pickle of torch": _torch_pickle,
    "a pickle in an array": _array_pickle,
    "an endless array": _array_bomb,
    "a bomb in an archive": _zip_bomb,
    "members outside": _tar(_outside),
    "links as members": _tar(_links),
    "many members": _tar(_members),
    "long names": _tar(_long_names),
    "an endless header": _safetensors_bomb,
    "a tag of Python": lambda scene: scene.write(f"optim: !!python/object/apply:os.system ['{scene.command}']\n"),
    "another pointer": lambda scene: scene.write(f"../../../{scene.folder.name}/treasures\n"),
}


def _trust_all() -> None:
    mutate("seqlm.config.build:_target", "if not ours and not path.startswith(tuple(trust)):", "if False:")


def _open_anything() -> None:
    """Files are opened whatever they are."""
    opened: Callable[[Path], Any] = lambda path: path.open("rb")  # noqa: E731
    replace("seqlm.files:open_regular", opened)


MUTANTS: dict[str, Callable[[], None]] = {"trust-all": _trust_all, "open-anything": _open_anything}
CAMPAIGN = Campaign(
    "hostile",
    f"{len(ATTACKS)} kinds of hostile files in {len(TARGETS)} places that are read",
    case,
    sizes={"short": 16, "full": 620},
    least={"hostile files": 600},
    mutants=MUTANTS,
)
