"""The body of the loop over time as torch's operations, each into a buffer that is made once a chunk.

gates -> trace -> program -> reverse -> code -> [torch_body] -> chunk
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .buffers import Buffers, Saved, Values, evaluate, evaluate_late, saved_values
from .chunk import Backward, Gradients, Recurrence
from .program import Program


@dataclass
class TorchBody:
    """A loop body that calls the two step functions of a program."""

    program: Program
    description: str  # and why there are no kernels
    any_shape: bool = False
    reads_bf16: bool = False

    @property
    def keeps_dcarry(self) -> bool:
        program = self.program
        return bool(program.after) or any(node in program.bulk.cotangents for node in program.late)

    def forward(self, buffers: Buffers, recurrence: Recurrence, bias: Tensor | None) -> None:
        program = self.program
        starts: Sequence[Tensor | None] = [bias] * buffers.steps
        if program.adds_z is not None:
            z = buffers[f"z{program.adds_z}"].tensor
            starts = (z if bias is None else z + bias).unbind(0)
        arguments = buffers.arguments(program.forward)
        recurrence.forward(buffers, starts, lambda t: program.forward.run(*arguments[t]))

    def backward(self, buffers: Buffers, recurrence: Recurrence, saved: Saved, dys: Tensor) -> Backward:
        program = self.program
        values = saved_values(program, buffers.steps, saved)
        used_again = {source for node in program.after for source in node.all_input_nodes}
        evaluate(program.before, values, {*program.coefficients, *used_again})
        for index, node in enumerate(program.coefficients):
            value, varies = values[node], node in program.varying
            buffers.put(
                f"k{index}", value.unflatten(0, (buffers.steps, buffers.rows)) if varies else value.unsqueeze(0)
            )
        buffers.put("dy", torch.cat([torch.zeros_like(dys[:1]), dys[:-1]]))
        arguments = buffers.arguments(program.reverse)
        starts = buffers.rows_of("next0" if program.starts_dh else "dy")
        reverse = recurrence.backward(buffers, starts, lambda t: program.reverse.run(*arguments[t]))
        return Backward(reverse, lambda: self._gradients(buffers, values))

    def _gradients(self, buffers: Buffers, values: Values) -> tuple[Gradients, Gradients]:
        program, bulk = self.program, self.program.bulk
        if self.keeps_dcarry:
            evaluate_late(program.after, program, buffers, values)
        dz: Gradients = []
        for node, late in zip(bulk.dz, program.late, strict=False):
            if node is bulk.dr:
                dz.append(buffers["dr"].tensor)
            else:
                dz.append(None if late is None else values[late].unflatten(0, (buffers.steps, buffers.rows)))
        return dz, [None if node is None else values[node] for node in program.late[len(bulk.dz) :]]
