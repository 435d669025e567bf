"""The command in a process of its own, on a terminal of a given width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

STYLE = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def run(*words: object, cwd: Path, columns: int = 80, env: Mapping[str, str] | None = None) -> str:
    """All that `seqlm WORDS` writes to a terminal, with every control sequence; it must end well."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "seqlm", *map(str, words)]
    environment = {**os.environ, "TERM": "xterm", **(env or {})}
    process = subprocess.Popen(command, cwd=cwd, stdin=inner, stdout=inner, stderr=inner, env=environment)
    os.close(inner)
    written = b""
    try:
        while block := os.read(outer, 1 << 16):
            written += block
    except OSError:  # it has ended, and its end of the terminal is closed
        pass
    finally:
        os.close(outer)
    text = written.decode()
    assert process.wait(60) == 0, text
    return text


def drawn(text: str) -> list[str]:
    """Each line as it was drawn, those that were drawn over included, without styles."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", CONTROL.sub("", text)) if line.strip()]


def left_on_screen(text: str) -> list[str]:
    """The lines that stay on a screen without end: a carriage return draws over, ESC [K erases the rest of a line."""
    lines: list[list[str]] = [[]]
    row, column = 0, 0
    for token in re.findall(r"\x1b\[A|\x1b\[K|\r|\n|[^\x1b\r\n]", STYLE.sub("", text)):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
            lines += [[] for _ in range(row + 1 - len(lines))]
        elif token == "\x1b[A":
            row -= 1
        elif token == "\x1b[K":
            del lines[row][column:]
        else:
            lines[row] += [" "] * (column + 1 - len(lines[row]))
            lines[row][column] = token
            column += 1
    return ["".join(line).rstrip() for line in lines]
