"""Run commands on a terminal of their own and draw what stands there in the end, for the README.

    python scripts/terminal.py docs/terminal.svg "seqlm train run.name=demo" "seqlm sample outputs/demo"

Needs the extra `docs` (rich).
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 132


def run(command: str) -> str:
    """What `command` writes to a terminal WIDTH columns wide."""
    process, terminal = pty.fork()
    if process == 0:
        words = shlex.split(command)
        os.execvpe(words[0], words, {**os.environ, "NO_COLOR": "1"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    written = b""
    while True:
        try:
            block = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        written += block
    os.waitpid(process, 0)
    return written.decode("utf-8", "replace")


def screen(written: str) -> list[str]:
    """The lines that stay: a carriage return writes over what is there, as a bar does, and ESC [K erases it first."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            text = part.removeprefix("\x1b[K")
            shown = text if text != part else part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def main() -> None:
    """Draw the commands given on the command line."""
    target, *commands = sys.argv[1:]
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for command in commands:
        console.print(Text(f"$ {command}", style="bold green"))
        for line in screen(run(command)):
            if line:
                console.print(Text(line[:WIDTH]))
        console.print()
    # Without the web font that rich names: a picture should not call anybody.
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="seqlm"), flags=re.DOTALL)
    Path(target).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
