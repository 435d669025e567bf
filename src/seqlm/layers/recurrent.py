"""Cells in time and in depth. All share `init_carry(batch_size)` and `forward(xs, carry, lengths)`, so they nest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..cells import Carry, Cell, Step, carry_tensors, map_carry, padding_mask
from ..engines import Engine, Plan, pick
from .dropout import StandardDropout


class Layer(nn.Module):
    """A map of sequences with memory: forward(xs (T, B, I), carry, lengths) -> (carry, ys (T, B, O)).

    `lengths` (B,) are those of the sequences, where some end before T: padding, whatever it holds, changes no output
    before an end, in either direction, and the carry is that after the last valid step of each sequence, as of
    torch.nn.LSTM with packed sequences: the first step in time if it is read backwards, the given carry if it is empty.
    """

    input_size: int
    output_size: int
    backward_size: int = 0  # number of outputs, the last ones, that come from reading backwards
    causal: bool  # y_t depends on x_0 .. x_t only

    def init_carry(self, batch_size: int) -> Carry:
        raise NotImplementedError

    def bind(self, carry: Carry) -> Step:
        """For inputs not known beforehand: step(carry, x (B, I)) -> (carry, y (B, O)), with the masks of ONE chunk."""
        raise NotImplementedError


class Recurrent(Layer):
    """A cell run over time by an engine: `scan` (the reference) or another by name, or the fastest exact one (`auto`).

    `reverse` runs time backwards and returns the outputs in the order of the inputs. Raises
    ValueError if a forced engine cannot serve the cell. `plan` says which engine was chosen and why.
    """

    def __init__(self, cell: Cell, reverse: bool = False, engine: Engine = "auto") -> None:
        super().__init__()
        self.cell, self.reverse, self.engine = cell, reverse, engine
        self._plans: dict[Any, Plan] = {}
        self._last: tuple[Any, ...] = ()
        self.plan_for(None, None)  # a forced engine that cannot serve the cell is refused here
        self.input_size, self.output_size, self.causal = cell.input_size, cell.output_size, not reverse
        self.backward_size = cell.output_size if reverse else 0

    def extra_repr(self) -> str:
        engine = "" if self.engine == "auto" else f"engine={self.engine}"
        return ", ".join(filter(None, ["backwards" if self.reverse else "", engine]))

    @property
    def plan(self) -> Plan:
        """The engine of the last chunk; before the first, the usual one."""
        last = self._last if self._last[: len(self._where)] == self._where else None
        return self._plans[last] if last else self.plan_for(None, None)

    def plan_for(self, steps: int | None, rows: int | None) -> Plan:
        """The engine for chunks of this shape, on the device and in the type that the cell's parameters have now."""
        where = self._where
        key = (*where, steps, rows, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
        if key not in self._plans:
            self._plans[key] = pick(self.cell, self.engine, steps, rows)
        self._last = key
        return self._plans[key]

    @property
    def _where(self) -> tuple[torch.device, torch.dtype, Any]:
        parameter = next(self.cell.parameters(), torch.empty(0))
        return parameter.device, parameter.dtype, self.cell.dropout

    def init_carry(self, batch_size: int) -> Carry:
        return self.cell.init_carry(batch_size)

    def forward(self, xs: Tensor, carry: Carry, lengths: Tensor | None = None) -> tuple[Carry, Tensor]:
        last, ys = self._run(xs, carry, lengths)
        starts = iter(carry_tensors(carry))  # under autocast some engines return a narrow state: it is kept exact
        return map_carry(lambda end: end.to(next(starts).dtype), last), ys

    def _run(self, xs: Tensor, carry: Carry, lengths: Tensor | None) -> tuple[Carry, Tensor]:
        run = self.plan_for(*xs.shape[:2]).run
        if lengths is None:
            return run(self.cell, xs, carry, reverse=self.reverse)
        padding = padding_mask(len(xs), lengths)
        xs = xs.masked_fill(padding.unsqueeze(-1), 0)  # 0 * NaN would reach the gradients of the weights
        if not self.reverse:
            return run(self.cell, xs, carry, lengths=lengths)
        carry, ys = run(self.cell, flip_sequences(xs, lengths), carry, lengths=lengths)
        return carry, flip_sequences(ys, lengths)

    def bind(self, carry: Carry) -> Step:
        if self.reverse:
            raise ValueError("a layer that runs backward cannot be run step by step")
        step, inputs = self.cell.bind(carry), self.cell.bind_inputs()

        def one(carry: Carry, x: Tensor) -> tuple[Carry, Tensor]:
            z = inputs(x.unsqueeze(0), carry)
            return step(carry, map_carry(lambda part: part[0], z))

        return one


def flip_sequences(xs: Tensor, lengths: Tensor) -> Tensor:
    """Sequences (T, B, ...) of `lengths` (B,) read backwards, each from its own end; the padding stays behind."""
    place = torch.arange(len(xs), device=xs.device).unsqueeze(1)
    place = torch.where(place < lengths, lengths - 1 - place, place)  # (T, B)
    return xs.gather(0, place.view(*place.shape, *[1] * (xs.dim() - 2)).expand_as(xs))


class Bidirectional(Layer):
    """Two layers over the same input, one in each direction; outputs are concatenated.

    y_t = [forward_t ; backward_t]. The two are separate modules with the same input size.
    M. Schuster and K. K. Paliwal, IEEE Transactions on Signal Processing 45 (1997).
    """

    causal = False

    def __init__(self, forward: Layer, backward: Layer) -> None:
        super().__init__()
        if forward is backward:
            raise ValueError("backward must be a module of its own, not the forward one again")
        if backward.causal:
            raise ValueError("backward must run backward: Recurrent(cell, reverse=True)")
        if forward.input_size != backward.input_size:
            raise ValueError(f"forward reads {forward.input_size} features, backward {backward.input_size}")
        self.fwd, self.bwd = forward, backward
        self.input_size, self.output_size = forward.input_size, forward.output_size + backward.output_size
        self.backward_size = backward.output_size

    def init_carry(self, batch_size: int) -> Carry:
        return (self.fwd.init_carry(batch_size), self.bwd.init_carry(batch_size))

    def forward(self, xs: Tensor, carry: Carry, lengths: Tensor | None = None) -> tuple[Carry, Tensor]:
        fwd_carry, fwd_ys = self.fwd(xs, carry[0], lengths)
        bwd_carry, bwd_ys = self.bwd(xs, carry[1], lengths)
        return (fwd_carry, bwd_carry), torch.cat([fwd_ys, bwd_ys], dim=-1)


class Stack(Layer):
    """Layers on top of each other, each reading the outputs of the one below.

    `dropout` is applied between layers (not below the first, not above the last). With `residual`
    every layer but the first adds its input to its output: y = layer(x) + x. With `skip_sum` the output is the
    sum of the outputs of all layers (G. Melis et al., arXiv 1707.05589). Raises ValueError, naming the
    layer, if sizes do not fit.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        dropout: StandardDropout | None = None,
        residual: bool = False,
        skip_sum: bool = False,
    ) -> None:
        super().__init__()
        if not layers:
            raise ValueError("layers is empty; a stack needs at least one layer")
        for index, (below, above) in enumerate(zip(layers, layers[1:], strict=False), start=1):
            if above.input_size != below.output_size:
                raise ValueError(f"layers.{index} reads {above.input_size} features but {below.output_size} arrive")
            if residual and above.output_size != above.input_size:
                raise ValueError(
                    f"residual=true adds input and output of layers.{index}, but their widths differ: "
                    f"{above.input_size} and {above.output_size}; give all layers one width or set residual=false"
                )
            if skip_sum and above.output_size != below.output_size:
                raise ValueError(
                    f"skip_sum=true adds the outputs of all layers, but layers.{index} has {above.output_size} and the "
                    f"one below {below.output_size}; give all layers one width or set skip_sum=false"
                )
        self.layers = nn.ModuleList(layers)
        self.dropout, self.residual, self.skip_sum = dropout or StandardDropout(0.0), residual, skip_sum
        self.input_size, self.output_size = layers[0].input_size, layers[-1].output_size
        self.backward_size = layers[-1].backward_size
        self.causal = all(layer.causal for layer in layers)

    def extra_repr(self) -> str:
        return ", ".join(name for name in ("residual", "skip_sum") if getattr(self, name))

    def init_carry(self, batch_size: int) -> Carry:
        return tuple(layer.init_carry(batch_size) for layer in self.layers)  # type: ignore[operator]

    def forward(self, xs: Tensor, carry: Carry, lengths: Tensor | None = None) -> tuple[Carry, Tensor]:
        runs = [lambda carry, xs, layer=layer: layer(xs, carry, lengths) for layer in self.layers]
        return self._through(runs, [self.dropout] * len(runs), carry, xs)

    def bind(self, carry: Carry) -> Step:
        steps = [layer.bind(below) for layer, below in zip(self.layers, carry, strict=True)]  # type: ignore[operator]
        drops = [self.dropout.bind() for _ in steps]
        return partial(self._through, steps, drops)

    def _through(
        self, runs: Sequence[Step], drops: Sequence[Callable[[Tensor], Tensor]], carry: Carry, xs: Tensor
    ) -> tuple[Carry, Tensor]:
        """Apply the layers from the bottom up: any number of steps of each, or one."""
        new, outputs = [], []
        for index, (run, drop, layer_carry) in enumerate(zip(runs, drops, carry, strict=True)):
            below = drop(xs) if index else xs
            layer_carry, ys = run(layer_carry, below)
            xs = ys + below if self.residual and index else ys
            new.append(layer_carry)
            outputs.append(xs)
        return tuple(new), torch.stack(outputs).sum(0) if self.skip_sum and len(outputs) > 1 else xs
