"""Terminal output of a run while it trains: a progress bar, a line per evaluation."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ..terminal import Part, columns, has_blocks, is_terminal, line, paint, wrap
from .notebook import in_notebook, notebook_bar

QUIET_SECONDS = 5.0  # between two plain lines, where there is no terminal to draw a bar on
CELLS = 10  # of the bar


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Console:
    """The progress of one run; a tqdm bar on a terminal or in a notebook, plain lines elsewhere.

    Args:
        headline: of nats per token, the unit people think in with its value; empty if there is no other.
        share: the share of the run that is done, 0 to 1, by whichever limit is the nearest.
        seconds: the clock, of which the time that is left is in proportion.
        quiet: seconds between two plain lines.
    """

    def __init__(
        self,
        headline: Callable[[float], str],
        share: Callable[[], float],
        seconds: Callable[[], float] | None = None,
        quiet: float = QUIET_SECONDS,
    ) -> None:
        self._headline, self._share = headline, share
        self._seconds, self._quiet = seconds or (lambda: time.monotonic()), quiet
        self._bar: Any = None
        self._step, self._total = 0, ""
        self._numbers: list[Part] = []  # of the last log interval
        self._began: tuple[float, float] | None = None  # time and share at the end of the first step, which is slow
        self._quiet_until = 0.0

    def start(self, step: int, total_steps: int | None) -> None:
        """Draw the bar. Without `total_steps` the run ends by the clock alone."""
        self._step, self._total = step, "" if total_steps is None else f"/{total_steps:,}"
        if in_notebook():
            self._bar = notebook_bar(lambda: self._parts()[2:], self._share)
        elif is_terminal(sys.stdout):
            self._bar = _Bar(self._parts)

    def step(self) -> None:
        """Count a step."""
        self._step += 1
        if self._began is None:
            self._began = self._seconds(), self._share()
        if self._bar is not None:
            self._bar.update()

    def at(self, step: int) -> None:
        """Stand at a step that was taken elsewhere."""
        self._step = step
        if self._began is None:
            self._began = self._seconds(), self._share()

    def back_to(self, step: int) -> None:
        """Count from an earlier step on."""
        self._step, self._began = step, None

    def write(self, text: str) -> None:
        """Print, without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def warn(self, text: str) -> None:
        """Print something that the user should look at."""
        first, *rest = wrap(f"warning: {text}", sys.stdout)
        self.write("\n".join([first.replace("warning:", paint("warning:", "yellow", sys.stdout)), *rest]))

    def training(self, epoch: float | None, values: Mapping[str, float], best: str, best_step: int) -> None:
        """The numbers of the last log interval, and the best evaluation so far, if there is one."""
        headline = self._headline(values["train/loss"])
        self._numbers = [
            Part("" if epoch is None else f"epoch {epoch:.2f}", 4),
            Part(f"loss {values['train/loss']:.3f}", 3 if headline else 8),
            Part(headline, 8),
            Part(f"lr {values['train/lr']:.3g}", 2),
            Part(f"grad {values['train/grad_norm']:.2f}", 1),
            Part(f"{values['train/tokens_per_s']:,.0f} tok/s", 5),
        ]
        if best:
            self._numbers.append(Part(f"best {best} @ {best_step:,}", 7))
        if self._bar is None and self._seconds() >= self._quiet_until:
            self._quiet_until = self._seconds() + self._quiet
            ahead = [Part(f"step {self._step:>7,}", 10), Part(self._percent(), 10), *self._numbers, self._eta()]
            print(line(ahead, sys.stdout), flush=True)

    def evaluation(self, step: int, metrics: Sequence[str], verdict: str, seconds: float, text: str) -> None:
        """One line for an evaluation, and one of the text that shows what the model does.

        `metrics` begin with the one that `verdict` is about: best so far, no improvement, diverging.
        """
        style = {"best so far": "green", "diverging": "yellow"}.get(verdict, "")
        first, *others = metrics
        parts = [Part(f"step {step:>7,}", 9), Part(f"valid {first}, {verdict}", 10, style)]
        parts += [Part(other, 7 - place) for place, other in enumerate(others)]
        self.write(line([*parts, Part(f"[{clock(seconds)}]", 8)], sys.stdout))
        if text:
            room = columns(sys.stdout) - 2 if is_terminal(sys.stdout) else 100
            shown = f"{'':>12} | {' '.join(text.split())}"
            self.write(paint(shown if len(shown) <= room else f"{shown[: room - 3]}...", "dim", sys.stdout))

    def close(self) -> None:
        """Erase the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _parts(self) -> list[Part]:
        """The bar as it stands now."""
        full, empty = "█░" if has_blocks(sys.stdout) else "#-"
        done = int(CELLS * self._share())
        return [
            Part(self._percent(), 11),
            Part(full * done + empty * (CELLS - done), 6),
            Part(f"step {self._step:,}{self._total}", 9),
            self._eta(),
            *self._numbers,
        ]

    def _percent(self) -> str:
        return f"{int(100 * self._share()):>3}%"

    def _eta(self) -> Part:
        """The time that is left, if it goes on as since the first step of this process."""
        if self._began is None or (share := self._share()) <= self._began[1]:
            return Part("", 10)
        began, before = self._began
        return Part(f"eta {clock((self._seconds() - began) * (1 - share) / (share - before))}", 10)


class _Bar(tqdm):  # type: ignore[type-arg]
    """A tqdm whose line is made of parts, as many as there is room for."""

    def __init__(self, parts: Callable[[], Sequence[Part]]) -> None:
        self._parts = parts
        super().__init__(file=sys.stdout, dynamic_ncols=True, leave=False, position=0, miniters=1)

    def __str__(self) -> str:
        return line(self._parts(), sys.stdout)
