"""seqlm diagnose: gradients through time, matrices, gates, and context, of one run or of several side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.values import verb_config
from ..config.verb_schema import DiagnoseConfig
from ..errors import ConfigError
from ..files import to_json, write_atomically, writing
from ..runs import finding
from ..runs.folder import RunFolder
from ..terminal import labelled, status
from .words import is_place, path_to_write, pop_file, refuse_flags

SUFFIXES = (".png", ".svg", ".pdf")
TEXTBOOK = "demo"  # in place of a run


def main(words: Sequence[str]) -> None:
    """`seqlm diagnose RUN ...|demo [key=value ...] [--json] [--png FILE]`."""
    words, as_json = [word for word in words if word != "--json"], "--json" in words
    words, picture = pop_file(words, "--png")
    folders = [word for word in words if is_place(word)]
    rest = [word for word in words if not is_place(word)]
    refuse_flags("diagnose", rest, "--json and --png FILE")
    options = verb_config("diagnose", DiagnoseConfig, rest)
    if not folders:
        raise ConfigError("seqlm diagnose needs a run folder: seqlm diagnose outputs/NAME; `seqlm runs` lists them")
    if picture and picture.suffix not in SUFFIXES:
        raise ConfigError(f"--png={picture} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if folders == [TEXTBOOK]:
        if idle := [word for word in rest if not word.startswith("lags=")]:
            raise ConfigError(f"{' '.join(idle)} does nothing for seqlm diagnose {TEXTBOOK}, which takes lags=...")
        return _textbook(options.lags, as_json, picture)
    if len(folders) == 1 and picture:
        raise ConfigError("--png FILE shows several runs side by side; the pictures of one are in its folder")
    _check_states(options, len(folders))
    for folder in folders:
        finding.check_exists(RunFolder.open(folder).checkpoints, options.checkpoint)
    if options.figures:
        from ..diagnose.figures import pyplot

        pyplot()  # before anything is measured
    with status("loading torch"):  # once all that can be checked without it is right
        from ..device import prepare
        from ..diagnose.diagnosis import diagnose
        from ..diagnose.findings import rows
        from ..runs.load import load_run
    device = prepare(options.device, options.precision, options.threads)
    diagnosed: dict[str, Any] = {}
    for folder in folders:
        run = load_run(
            folder, checkpoint=options.checkpoint, weights=options.weights, engine=options.engine, trust=options.trust
        )
        run.model.to(device)
        found = diagnose(run, options)
        name = run.folder.name if run.folder.name not in diagnosed else str(run.folder.path)
        diagnosed[name] = found
        files = _keep(run.folder.path / "diagnose", found, options)
        if not as_json:
            kept = f"{run.folder.path / 'diagnose'}: {', '.join(['summary.json', *(file.name for file in files)])}"
            end = "\n\n" if len(folders) > 1 else "\n"
            print(labelled([*rows(found), ("kept in", kept)], sys.stdout), end=end, flush=True)
    if as_json:
        print(to_json(next(iter(diagnosed.values())) if len(folders) == 1 else diagnosed), flush=True)
    if picture:
        from ..diagnose.figures import draw_side_by_side

        with writing(picture):
            draw_side_by_side(diagnosed, picture)
        print(f"side by side: {picture}", file=sys.stderr)


def _check_states(options: DiagnoseConfig, runs: int) -> None:
    """Take `states` for the file that a link leads to. Raises ConfigError if it could not be written."""
    if options.states is None:
        return
    if Path(options.states).suffix != ".npz":
        raise ConfigError(f"states={options.states} must end in .npz")
    if runs > 1:
        raise ConfigError(f"states={options.states} keeps the states of one run, not of {runs}")
    options.states = str(path_to_write(f"states={options.states}", options.states))


def _textbook(lags: int, as_json: bool, picture: Path | None) -> None:
    """The experiment of the textbooks, so many steps long."""
    if Path("outputs", TEXTBOOK).is_dir():
        print(f"note: this is the textbook's experiment; the run of this name is outputs/{TEXTBOOK}", file=sys.stderr)
    if picture:
        from ..diagnose.figures import pyplot

        pyplot()
    with status("loading torch"):
        from ..diagnose.textbook import lines, textbook
    found = textbook(lags)
    print(to_json(found) if as_json else labelled(lines(found), sys.stdout), flush=True)
    if picture:
        from ..diagnose.figures import draw_textbook

        with writing(picture):
            draw_textbook(found, picture)
        print(f"picture: {picture}", file=sys.stderr)


def _keep(folder: Path, found: dict[str, Any], options: DiagnoseConfig) -> list[Path]:
    """Write the numbers and the pictures into the run's folder; returns the pictures."""
    with writing(folder):
        folder.mkdir(exist_ok=True)
        write_atomically(folder / "summary.json", to_json(found, indent=1) + "\n")
        if not options.figures:
            return []
        from ..diagnose.figures import draw

        return draw(found, folder, found["run"], options.format)
