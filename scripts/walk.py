"""Walk through the daily loop as a user does, on real terminals, and keep every screen to be read.

    python scripts/walk.py FOLDER [--width 80]

Trains, stops, resumes, extends, lists, compares, sweeps and deletes tiny runs in FOLDER/home, in tmux, and writes what
stood on the screen after each command to FOLDER/<number>-<verb>-<width>.txt;
with Chromium, pictures of TensorBoard too.
It judges nothing: read the screens. Needs tmux, and a seqlm on the path.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import time
from pathlib import Path

TINY = "data=markov data.tokens=4000 model.hidden_size=12 train.steps=60 train.eval_every=20 threads=1"
DONE = "walked-"  # printed after each command, to know that it has ended
COMMANDS = [
    "seqlm --help",
    "seqlm train modle=gru",
    "seqlm train experiment=zaremba",
    f"seqlm train {TINY} model=gru run.name=first tags=[base]",
    "seqlm train train.minutes=1 run.name=long train.eval_every=40 threads=1 <C-c after 25>",
    "seqlm resume long train.minutes=0.1",
    "seqlm resume long optim.lr=1",
    "seqlm resume first",
    "seqlm resume first train.steps=120",
    "seqlm resume first train.steps=120 schedule.extend=hold",
    f"seqlm train {TINY} model=gru run.name=second seed=2",
    "seqlm eval first split=test",
    "seqlm sample first tokens=40",
    "seqlm predict first nofile",
    "seqlm runs",
    "seqlm runs --filter 'model=gru valid<90' --sort=-date",
    "seqlm compare first second",
    f"seqlm sweep lr {TINY} model=lstm,gru seed=1,2 optim.lr=0.01,0 jobs=2",
    f"seqlm sweep lr {TINY} model=lstm,gru seed=1,2,3 optim.lr=0.01 jobs=2",
    f"seqlm train -m {TINY} seed=1,2",
    "seqlm rm second --yes",
    "seqlm rm --status crashed",
]


def tmux(*words: str) -> str:
    return subprocess.run(["tmux", *words], capture_output=True, text=True, check=True).stdout


def screen() -> str:
    """All that the terminal has shown, without empty lines at its end."""
    return tmux("capture-pane", "-t", "walk", "-p", "-S", "-200").rstrip() + "\n"


def walk(folder: Path, width: int) -> None:
    """Type every command and keep its screen."""
    home = folder / f"home-{width}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    tmux("new-session", "-d", "-s", "walk", "-x", str(width), "-y", "40", "-c", str(home), "bash --norc")
    try:
        for number, command in enumerate(COMMANDS, 1):
            typed, _, keys = command.partition(" <C-c after ")
            tmux("send-keys", "-t", "walk", "clear", "Enter")
            tmux("clear-history", "-t", "walk")
            tmux("send-keys", "-t", "walk", f"{typed}; echo {DONE}$?", "Enter")
            if keys:
                time.sleep(float(keys.rstrip(">")))
                tmux("send-keys", "-t", "walk", "C-c")
            end = time.monotonic() + 300
            while not re.search(rf"^{DONE}\d+", screen(), re.M) and time.monotonic() < end:
                time.sleep(0.3)
            name = f"{number:02d}-{typed.split()[1].lstrip('-')}-{width}.txt"
            (folder / name).write_text(screen(), encoding="utf-8")
            print(name, flush=True)
    finally:
        tmux("kill-session", "-t", "walk")


def pictures(folder: Path, width: int) -> None:
    """TensorBoard's tabs as a browser shows them, if Chromium is installed."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no Chromium: no pictures of TensorBoard")
        return
    logs, port = folder / f"home-{width}" / "outputs", 6196
    server = subprocess.Popen(["tensorboard", "--logdir", str(logs), "--port", str(port)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(15)
        for tab in ("scalars", "hparams", "custom_scalars"):
            words = [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--window-size=1500,1000",
                "--virtual-time-budget=20000",
            ]
            picture = folder / f"tensorboard-{tab}.png"
            subprocess.run(
                [browser, *words, f"--screenshot={picture}", f"http://localhost:{port}/#{tab}"],
                capture_output=True, timeout=120, check=False,
            )  # fmt: skip
            print(picture.name, flush=True)
    finally:
        server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, action="append", help="columns of the terminal; default: 80 and 140")
    options = parser.parse_args()
    widths = options.width or [80, 140]
    for width in widths:
        walk(options.folder.resolve(), width)
    pictures(options.folder.resolve(), widths[0])


if __name__ == "__main__":
    main()
