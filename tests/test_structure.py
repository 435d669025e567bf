"""The shape of the package: imports point one way, only config/compose knows hydra, and start-up is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import seqlm

ROOT = Path(seqlm.__file__).parent
# The map (files and folders at the root of the package) and what each may import from it: arrows point one way.
# Leaves know no model.
LEAVES = {"__init__", "cache", "config", "data", "device", "errors", "files", "optim", "runs", "terminal"}
MAY: dict[str, set[str]] = {
    "terminal": set(),
    "errors": {"terminal"},
    "files": {"errors"},
    "cache": {"errors", "files"},
    "device": {"errors"},
    "config": {"errors", "files"},
    "data": {"cache", "errors", "files", "terminal"},
    "optim": {"errors"},
    "runs": {"config", "data", "device", "errors", "files", "terminal"},
    "cells": set(),
    "engines": {"__init__", "cache", "cells", "config", "device", "files", "terminal"},
    "layers": {"cells", "engines"},
    "models": {"cells", "data", "engines", "errors", "layers"},
    "tasks": {"cells", "config", "data", "errors", "layers", "models", "optim"},
    "evaluation": LEAVES | {"cells", "layers", "tasks"},
    "training": LEAVES | {"cells", "diagnose", "engines", "evaluation", "layers", "models", "tasks"},
    "diagnose": LEAVES | {"cells", "layers", "models", "report", "tasks"},
    "report": {"errors"},
    "sweep": LEAVES | {"report", "training"},
    "slurm": LEAVES | {"sweep", "training"},
    "testing": {"cells", "engines", "layers"},
    "bench": LEAVES | {"cells", "engines", "layers", "models", "report", "tasks", "training"},
    "commands": LEAVES
    | {"bench", "cells", "diagnose", "engines", "evaluation", "layers", "models", "slurm", "sweep", "tasks"}
    | {"report", "training"},
    "api": {"config", "data", "device", "errors", "evaluation", "runs", "tasks", "training"},
    "cli": {"__init__", "commands", "config", "errors", "training"},
    "batch": {"cli", "errors", "slurm", "training"},
    "__main__": {"cli"},
    "__init__": {"api", "cells", "errors", "layers", "models", "runs", "training"},
}


def imports(path: Path, at_load: bool = False) -> set[str]:
    """Absolute dotted names a file imports, relative ones resolved; `at_load`: only those at its top level."""
    package = ["seqlm", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_load else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} if node.module else {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_the_root_of_the_package_holds_few_files():
    assert len(list(ROOT.glob("*.py"))) <= 10


def test_no_circle_of_files():
    """Of files that import each other while they are loaded; what a function imports when called may point back."""
    modules = {".".join(("seqlm", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}
    arrows = {
        module: {other for name in imports(path, at_load=True) for other in (name, name.rpartition(".")[0])}
        & set(modules)
        for module, path in modules.items()
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle: {' -> '.join((*above[above.index(module) :], module))}"
        if module not in done:
            for other in arrows.get(module, set()) - {module}:
                visit(other, (*above, module))
            done.add(module)

    for module in arrows:
        visit(module, ())


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


def test_only_one_package_knows_hydra():
    for path in ROOT.rglob("*.py"):
        uses = {name for name in imports(path) if name.split(".")[0] == "hydra"}
        assert not uses or path.parent == ROOT / "config" / "compose", f"{path} imports {uses}"
        if ROOT / "config" not in path.parents:
            assert not any(name.split(".")[0] == "omegaconf" for name in imports(path)), path


def test_a_task_is_asked_and_never_its_type():
    """A new task, or a new kind of batch, changes nothing outside these folders."""
    homes = [ROOT / "tasks", ROOT / "data" / "batching"]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}
    inside = {path: any(home in path.parents for home in homes) for path in trees}
    classes = {
        node.name for path in trees if inside[path] for node in trees[path].body if isinstance(node, ast.ClassDef)
    }
    for path, tree in trees.items():
        for call in [] if inside[path] else ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("isinstance", "issubclass", "type"):
                names = {node.id for part in call.args[1:] for node in ast.walk(part) if isinstance(node, ast.Name)}
                assert not names & classes, f"{path}:{call.lineno} {ast.unparse(call)}"


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


def test_verbs_that_only_read_do_without_torch():
    """It takes two seconds to load."""
    verbs = ("runs", "compare", "diff", "tail", "sweep", "verify", "rm", "resume", "eval", "help", "completion")
    code = (
        f"import sys; {'; '.join(f'import seqlm.commands.{verb}' for verb in verbs)}; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_docstrings_begin_with_a_noun_or_an_imperative():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                assert not (ast.get_docstring(node) or "").startswith("What"), f"{path}: {getattr(node, 'name', '')}"
