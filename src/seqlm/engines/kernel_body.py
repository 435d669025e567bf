"""The body of the loop over time as one kernel a step.

gates -> trace -> program -> kernels -> lower -> passes -> compiled | triton_kernels -> [kernel_body] -> chunk
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .buffers import Buffers, Saved, Values, evaluate_late, put_saved, saved_values
from .chunk import Backward, Gradients, Recurrence, Reverse
from .code import Block, block_of
from .kernels import forward_kernel, reverse_kernel
from .passes import Unsupported
from .program import Program
from .trace import Trace


class Function(Protocol):
    """A kernel: `bind` to the buffers of a chunk gives a function of t."""

    reads_bf16: bool  # whether buffers may be in bfloat16, and have rounded twins

    def bind(self, buffers: Buffers) -> Callable[[int], None]: ...


@dataclass(eq=False)
class KernelBody:
    """A loop body of two kernels, for the forward and the backward pass."""

    program: Program
    forward_kernel: Function
    reverse_kernel: Function
    separate_dz: list[bool]  # for each tensor of z that needs a gradient: whether it is another than dr
    sums: bool  # whether `reverse_kernel` adds up the gradients of parameters
    any_shape: bool  # whether the kernels do everything, the same for chunks of any shape
    description: str = "one kernel a step"

    @property
    def reads_bf16(self) -> bool:
        return self.forward_kernel.reads_bf16

    @property
    def keeps_dcarry(self) -> bool:
        return not self.sums and bool(self.program.after_kernels)

    def forward(self, buffers: Buffers, recurrence: Recurrence, bias: Tensor | None) -> None:
        if bias is not None:
            buffers.put("bias", bias.unsqueeze(0))
        self.run_forward(buffers, recurrence)

    def run_forward(self, buffers: Buffers, recurrence: Recurrence) -> None:
        """The loop over time, once all buffers are there."""
        recurrence.forward(buffers, [None] * buffers.steps, self.forward_kernel.bind(buffers))

    def run_backward(self, buffers: Buffers, recurrence: Recurrence) -> Reverse:
        """The loop of the gradient, likewise."""
        return recurrence.backward(buffers, buffers.rows_of("next0"), self.reverse_kernel.bind(buffers))

    def backward(self, buffers: Buffers, recurrence: Recurrence, saved: Saved, dys: Tensor) -> Backward:
        bulk = self.program.bulk
        buffers.put("dy", dys.contiguous(), -1)
        put_saved(buffers, saved)
        constant = iter(saved.z)
        for i, needed in enumerate(bulk.needs):
            if not needed:
                buffers.put(f"z{i}", next(constant).contiguous())
        dz: Gradients = []
        for i, (node, separate) in enumerate(zip(bulk.dz, self.separate_dz, strict=True)):
            if node is not None and separate:
                block = Block(block_of(node).shape, buffers["dr"].tensor.dtype)
                buffers.put(f"dz{i}", buffers.empty(buffers.steps, block))
            dz.append(None if node is None else buffers[f"dz{i}" if separate else "dr"].tensor)
        if self.sums:
            for i, (node, parameter) in enumerate(zip(bulk.dparameters.values(), saved.parameters, strict=True)):
                if node is not None:
                    buffers.put(f"sum{i}", dys.new_zeros(1, buffers.rows, len(parameter)))

        def gradients() -> tuple[Gradients, Gradients]:
            return dz, self._parameter_gradients(buffers, saved)

        return Backward(self.run_backward(buffers, recurrence), gradients)

    def _parameter_gradients(self, buffers: Buffers, saved: Saved) -> Gradients:
        late = self.program.late[len(self.separate_dz) :]
        if self.sums:
            return [None if node is None else buffers[f"sum{i}"].tensor.sum((0, 1)) for i, node in enumerate(late)]
        values: Values = {}
        if self.keeps_dcarry:
            values = saved_values(self.program, buffers.steps, saved)
            evaluate_late(self.program.after_kernels, self.program, buffers, values)
        return [None if node is None else values[node] for node in late]


def kernel_body(
    backend: Any, step: Trace, program: Program, hidden_size: int, dtype: torch.dtype, biased: bool
) -> KernelBody:
    """The kernels of a program in the language of a backend. Raises Unsupported if there are none."""
    step_of = {bulk: node for node, bulk in program.bulk_of.items()}
    stored, language = [step_of[node] for node in program.stored], backend.LANGUAGE
    forward = forward_kernel(step, stored, hidden_size, language, biased)
    sums = True
    try:
        reverse = reverse_kernel(step, stored, hidden_size, language, sums)
    except Unsupported:
        sums = False
        reverse = reverse_kernel(step, stored, hidden_size, language, sums)
    functions = backend.function(forward, dtype), backend.function(reverse, dtype)
    any_shape = (
        (sums or not program.after_kernels)
        and forward == forward_kernel(program.bulk, program.stored, hidden_size, language, biased)
        and reverse == reverse_kernel(program.bulk, program.stored, hidden_size, language, sums)
    )
    return KernelBody(program, *functions, [node is not step.dr for node in step.dz], sums, any_shape)
