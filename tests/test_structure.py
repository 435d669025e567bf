"""The shape of the package: imports point one way, only cli.py knows hydra, and start-up is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import seqlm

ROOT = Path(seqlm.__file__).parent
# What each part may import from the package, besides itself: arrows point one way.
LEAVES = {"errors", "build", "config", "migrate", "run", "schema", "data", "training", "__init__"}
MAY = {
    "errors": set(),
    "build": {"errors", "migrate"},
    "migrate": set(),
    "run": {"errors"},
    "schema": set(),
    "config": {"build", "errors", "migrate", "run", "schema"},
    "cells": set(),
    "engines": {"cells", "run"},
    "layers": {"cells", "engines"},
    "models": {"cells", "data", "engines", "errors", "layers"},
    "data": {"errors", "run"},
    "training": {"cells", "errors", "run"},
    "tasks": {"cells", "data", "errors", "models", "schema", "training"},
    "assemble": LEAVES,
    "report": LEAVES | {"layers", "models", "session", "tasks"},  # session for its types only
    "sample": LEAVES | {"assemble", "models", "tasks"},
    "testtime": LEAVES | {"assemble", "cells", "layers", "tasks"},
    "lens": {"data", "errors"},
    "certify": LEAVES | {"evaluate", "runs", "tasks"},
    "evaluate": LEAVES | {"assemble", "lens", "runs", "tasks", "testtime"},
    "session": LEAVES | {"assemble", "cells", "tasks"},
    "train": LEAVES | {"assemble", "cells", "evaluate", "report", "session", "tasks"},
    "bench": LEAVES | {"cells", "engines", "layers", "models", "tasks", "train"},
    "predict": LEAVES | {"assemble", "tasks"},
    "runs": {"errors", "run"},
    "compare": {"config", "errors", "run", "runs"},
    "cli": {
        "__init__",
        "bench",
        "certify",
        "compare",
        "config",
        "errors",
        "evaluate",
        "predict",
        "resume",
        "runs",
        "sample",
        "schema",
        "train",
    },
    "__main__": {"cli"},
    "__init__": {"assemble", "cells", "errors", "layers", "models"},
}


def imports(path: Path) -> set[str]:
    """Absolute dotted names a file imports, relative ones resolved."""
    package = ["seqlm", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} if node.module else {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_imports_point_one_way():
    parts = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert parts == MAY.keys(), "a new part of the package needs its place in MAY"
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for name in imports(path):
            if name.split(".")[0] == "seqlm":
                other = name.split(".")[1] if "." in name else "__init__"
                other = "__init__" if other == "__version__" else other
                assert other == part or other in MAY[part], f"{path} imports {name}"


def test_only_the_command_line_knows_hydra():
    for path in ROOT.rglob("*.py"):
        uses = {name for name in imports(path) if name.split(".")[0] == "hydra"}
        assert not uses or path.name == "cli.py", f"{path} imports {uses}"
        if path.name not in ("cli.py", "config.py"):
            assert not any(name.split(".")[0] == "omegaconf" for name in imports(path)), path


def test_files_are_never_unpickled_freely():
    wanted = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False", "numpy.load": "allow_pickle=False"}
    for path in ROOT.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            flags = {ast.unparse(keyword) for keyword in call.keywords}
            assert wanted.get(ast.unparse(call.func)) in {None, *flags}, f"{path}:{call.lineno}"
            assert not {"weights_only=False", "allow_pickle=True"} & flags, f"{path}:{call.lineno}"
        assert not {"pickle", "joblib", "dill", "marshal"} & imports(path), path


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, seqlm, seqlm.cli; heavy = {'torch', 'hydra', 'tensorboard', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy; seqlm.LSTMCell(2, 3); assert 'hydra' not in sys.modules; "
        "assert 'tensorboard' not in sys.modules; "
        "[getattr(seqlm, name) for name in seqlm.__all__]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_stay_short():
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
