"""One batch forwards and backwards: eagerly, or as a CUDA graph that is captured once and replayed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from ..cells import Carry, carry_tensors, detach, map_carry

# (batch, carry) -> (carry, summed loss, penalty to add to them or None); a batch is one of data.batches
Objective = Callable[[Any, Carry], tuple[Carry, Tensor, "Tensor | None"]]
Nothing = Callable[[], None]


def nothing() -> None:
    """Do nothing."""


def gradient(
    objective: Objective,
    parameters: Sequence[nn.Parameter],
    batch: Any,
    carry: Carry,
    normalizer: float,
    parts: int = 1,
    *,
    before_last: Nothing = nothing,
) -> tuple[Carry, Tensor]:
    """Leave the gradient of (loss + penalty) / normalizer in the parameters.

    The rows are read in `parts` one after another, each with its own part of the carry: gradients add up, so that
    is the gradient of all at once; `before_last` is called before the last part's. Returns the carry, cut off, and the
    summed loss, without penalty.
    """
    for parameter in parameters:
        parameter.grad = None
    carries: list[Carry] = []
    losses: list[Tensor] = []
    pieces = batch.parts(parts)
    for piece, start in zip(pieces, _in_parts(carry, parts), strict=False):
        with record_function("forward"):
            new, found, penalty = objective(piece, start)
        whole = found if penalty is None else found + penalty
        if len(carries) == len(pieces) - 1:
            before_last()
        with record_function("backward"):
            (whole / normalizer).backward()
        carries.append(detach(new))
        losses.append(found.detach())
    if len(pieces) == 1:
        return carries[0], losses[0]
    joined = iter([torch.cat(tensors) for tensors in zip(*map(carry_tensors, carries), strict=True)])
    return map_carry(lambda _: next(joined), carry), torch.stack(losses).sum()


def _in_parts(carry: Carry, parts: int) -> list[Carry]:
    """The carries of `parts` groups of rows, cut as torch.chunk cuts."""
    if not carry_tensors(carry):  # a model without memory from batch to batch
        return [carry] * parts
    cut = [iter(tensors) for tensors in zip(*(t.chunk(parts) for t in carry_tensors(carry)), strict=True)]
    return [map_carry(lambda _, tensors=tensors: next(tensors), carry) for tensors in cut]  # type: ignore[misc]


class Graph(Protocol):
    """The part of torch.cuda.CUDAGraph that is used here."""

    def replay(self) -> None: ...


Capture = Callable[[Callable[[], None]], Graph]


class _Captured(NamedTuple):
    graph: Graph
    batch: Any
    loss_sum: Tensor
    gradients: list[Tensor | None]


class GraphedGradient:
    """`gradient` replayed: one graph for each length of chunk, at most `most` of them, in one memory pool.

    A replay reads tokens and carry from buffers of its own and leaves gradients in buffers of its own; the carry it
    returns is overwritten by the next one. Masks are drawn anew by every replay, from the generator that an
    eager step would draw them from. If a capture fails, this and all later batches are done eagerly, and `log` is
    called with the reason. `capture` records a function as a graph: `cuda_capture()`. There are no parts, and
    `before_last` is not called: nothing can be done beside a replay.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Sequence[nn.Parameter],
        capture: Capture,
        log: Callable[[str], None],
        *,
        most: int = 8,
    ) -> None:
        self.objective, self.parameters, self.capture, self.log, self.most = objective, parameters, capture, log, most
        self.captured: OrderedDict[Any, _Captured] = OrderedDict()
        self.carry: Carry = None
        self.broken = False

    def __call__(
        self, batch: Any, carry: Carry, normalizer: float, *, before_last: Nothing = nothing
    ) -> tuple[Carry, Tensor]:
        if self.broken:
            return gradient(self.objective, self.parameters, batch, carry, normalizer)
        key = (batch.inputs.shape, normalizer)
        if key not in self.captured:
            try:
                self.captured[key] = self._record(batch, carry, normalizer)
            except RuntimeError as error:
                self.broken = True
                self.captured.clear()
                reason = str(error).strip().partition("\n")[0]
                self.log(f"engine=graph: the step cannot be captured ({reason}); continuing without a graph")
                return self(batch, carry, normalizer)
            if len(self.captured) > self.most:
                self.captured.popitem(last=False)
        self.captured.move_to_end(key)
        captured = self.captured[key]
        captured.batch.inputs.copy_(batch.inputs)
        captured.batch.targets.copy_(batch.targets)
        for buffer, given in zip(carry_tensors(self.carry), carry_tensors(carry), strict=True):
            if buffer is not given:
                buffer.copy_(given)
        captured.graph.replay()
        for parameter, found in zip(self.parameters, captured.gradients, strict=True):
            parameter.grad = found
        return self.carry, captured.loss_sum

    def _record(self, batch: Any, carry: Carry, normalizer: float) -> _Captured:
        before = map_carry(torch.clone, carry)
        if self.carry is None:
            self.carry = map_carry(torch.clone, carry)
        batch = batch._replace(inputs=batch.inputs.clone(), targets=batch.targets.clone())
        total = torch.zeros((), device=batch.inputs.device)

        def step() -> None:
            new, loss_sum = gradient(self.objective, self.parameters, batch, self.carry, normalizer)
            for buffer, made in zip(carry_tensors(self.carry), carry_tensors(new), strict=True):
                buffer.copy_(made)
            total.copy_(loss_sum)

        try:
            graph = self.capture(step)
        finally:  # capturing ran the step
            for buffer, kept in zip(carry_tensors(self.carry), carry_tensors(before), strict=True):
                buffer.copy_(kept)
        return _Captured(graph, batch, total, [parameter.grad for parameter in self.parameters])


def cuda_capture(device: torch.device) -> Capture:
    """Records functions as CUDA graphs that share one memory pool."""
    pool = torch.cuda.graph_pool_handle()

    def capture(function: Callable[[], None]) -> Graph:
        # Whatever is prepared at first use must not be part of the graph; masks drawn meanwhile are discarded.
        before = torch.cuda.get_rng_state(device)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(side):
                for _ in range(3):
                    function()
            torch.cuda.current_stream(device).wait_stream(side)
            with torch.cuda.graph(graph, pool=pool):
                function()
        finally:
            torch.cuda.set_rng_state(before, device)
        return graph

    return capture
