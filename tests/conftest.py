"""Shared by all tests: small runs in a folder of their own, and few threads so that tests run side by side."""

from __future__ import annotations

import functools
import gc
import importlib.util
import io
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

from . import inprocess

os.environ["SEQLM_TUNE"] = "0"  # side by side, tests would measure each other
os.environ.pop("COLUMNS", None)  # of the terminal that pytest runs on, for its workers
os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton; see test_triton.py
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # omegaconf takes this one: composing is a third faster

# Words that hydra passes on as they are.
PLACE = re.compile(r"run\.(root|name)=(?!(?i:null|true|false|nan|inf)$)([A-Za-z/][\w./-]*)")
REPOSITORY = Path(__file__).resolve().parents[1]
PTB = REPOSITORY.parent / "shared" / "data" / "ptb"

# A run of a second: the overrides that tests start from.
TINY = [
    "data=markov", "data.tokens=4000", "data.symbols=5", "model.hidden_size=12", "model.num_layers=2", "optim.lr=0.01",
    "train.batch_size=4", "train.bptt=7", "train.eval_batch_size=3", "train.steps=40",
    "train.eval_every=15", "train.log_every=3", "checkpoint.every=4", "sample.tokens=10", "threads=1",
]  # fmt: skip


def pytest_configure() -> None:
    """Tests send signals, which a suite that began in the background or under nohup, and its children, would ignore."""
    for number, usual in [(signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)]:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Modules and collected tests live to the end: not to look through them for garbage again saves a tenth."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Encoded text and kernels go to a folder of this session, not to the user's; all of xdist's workers share it."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "cache"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["SEQLM_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def processes():
    """Where processes come from that need not start an interpreter and torch: they are forked from one that has."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seqlm.training.loop", "seqlm.config.compose"])
    return context


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch):
    """A test that ends its process, or fills the disk, is in a process of its own, or says what fails."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def own_modules(tmp_path_factory):
    """A module of one test, written to its folder, is not taken for the next test's of the same name."""
    before, folder = set(sys.modules), f"{tmp_path_factory.getbasetemp()}{os.sep}"
    yield
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run side by side on few cores; a thread each is fastest."""
    import torch

    torch.set_num_threads(1)


class Screen(io.StringIO):
    """A terminal, as wide as COLUMNS says."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """Both standard streams as a terminal of 80 columns, to those who draw on it."""
    from seqlm import terminal
    from seqlm.training import console

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    made = Screen()
    for module in (terminal, console):  # sys itself is pytest's, which puts its own streams back
        monkeypatch.setattr(module, "sys", types.SimpleNamespace(stdout=made, stderr=made))
    return made


@pytest.fixture(params=["kernels", "operations"])
def loop_body(request, monkeypatch):
    """Both bodies of the fused loop: compiled kernels, and torch's operations as where there is no compiler."""
    from seqlm.engines import compiled

    if request.param == "operations":
        monkeypatch.setenv("SEQLM_KERNELS", "0")
    else:
        monkeypatch.delenv("SEQLM_KERNELS", raising=False)
    if request.param == "kernels" and compiled.compiler() is None:
        pytest.skip("no C compiler was found")
    return request.param


@pytest.fixture
def ptb():
    if not (PTB / "train.txt").is_file():
        pytest.skip("the Penn Treebank is not in ../shared/data/ptb")
    return PTB


def seqlm(
    *words: object,
    cwd: Path,
    check: bool = True,
    process: bool = False,
    input: str = "",
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command here, or with `process` in one of its own, where starting or ending it is what is tested."""
    given = [*map(str, words)]
    if process:
        command = [sys.executable, "-m", "seqlm", *given]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, input=input, env=env)
    else:
        done = inprocess.run(given, cwd, input=input, env=env)
    if check and done.returncode:
        raise AssertionError(f"seqlm {' '.join(given)} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def script(name: str):
    """A file of scripts/ as a module of its own, which finds its siblings as when it is executed."""
    folder = REPOSITORY / "scripts"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compose(*overrides: str):
    """The typed config that `seqlm train` would train with these overrides."""
    places = [place for word in overrides if (place := PLACE.fullmatch(word))]
    config = pickle.loads(_composed(*(word for word in overrides if not PLACE.fullmatch(word))))
    for place in places:
        setattr(config.run, *place.groups())
    return config


@functools.cache
def _composed(*overrides: str) -> bytes:
    """Composing takes longer than many a test, and where a run lives changes nothing: everyone gets a copy."""
    from seqlm.config.compose import compose_words

    return pickle.dumps(compose_words(overrides)[0])


def tiny(folder: Path, *overrides: str, name: str = "run"):
    """The config of a tiny run below `folder`."""
    return compose(*TINY, f"run.root={folder}", f"run.name={name}", *overrides)
