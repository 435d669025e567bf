"""Terminal output of a run while it trains: a progress bar, a line per evaluation."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

QUIET_SECONDS = 5.0  # between two plain lines, where there is no terminal to draw a bar on


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Console:
    """The progress of one run; a tqdm bar on a terminal, plain lines elsewhere."""

    def __init__(self, headline: Callable[[float], str]) -> None:
        self._headline = headline  # nats per token in the unit people think in
        self._terminal = sys.stdout.isatty()
        self._bar: Any = None
        self._quiet_until = 0.0

    def start(self, step: int, total_steps: int | None) -> None:
        if self._terminal:
            self._bar = tqdm(
                total=total_steps, initial=step, unit="step", file=sys.stdout, dynamic_ncols=True, smoothing=0.05
            )

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def write(self, text: str) -> None:
        """Print, without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def training(self, step: int, epoch: float, values: Mapping[str, float], best: str, best_step: int) -> None:
        """The numbers of the last log interval, and the best evaluation so far."""
        headline = self._headline(values["train/loss"])
        shown = (
            f"epoch {epoch:.2f}  loss {values['train/loss']:.3f}  {headline}{'  ' * bool(headline)}"
            f"lr {values['train/lr']:.3g}  grad {values['train/grad_norm']:.2f}  "
            f"{values['train/tokens_per_s']:,.0f} tok/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(shown + (f"  best {best} @ {best_step:,}" if best_step else ""), refresh=False)
        elif time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            print(f"step {step:>7,}  {shown}", flush=True)

    def evaluation(self, step: int, metrics: str, improved: bool, seconds: float, text: str) -> None:
        """One line for an evaluation, and one of the text that shows what the model does."""
        self.write(
            f"step {step:>7,}  valid {metrics}  {'best so far' if improved else 'no improvement'}  [{clock(seconds)}]"
        )
        if text:
            self.write("              | " + " ".join(text.split()))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
