"""Kernels for CUDA: the gates of a cell and their gradient in Triton, one launch for a step of all rows.

    gates -> trace -> program -> kernels -> lower -> passes -> [triton_kernels] -> kernel_body -> chunk

The same lowering as for the CPU (compiled.py), in another language. Without a GPU the kernels run in Triton's
interpreter (TRITON_INTERPRET=1), which is how they are tested.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import linecache
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .buffers import Buffers
from .passes import Array, Kernel, Language, Unsupported, operations

BLOCK = 1024  # units a program

LANGUAGE = Language(
    assign=lambda name, value: f"{name} = {value}",
    accumulate=lambda name, value: f"{name} += {value}",  # not reached: see function()
    kept=lambda number: f"kept{number}",
    number=lambda value: repr(value) if math.isfinite(value) else f'float("{value}")',
    operations=operations(
        exp="tl.exp({})",
        log="tl.log({})",
        sqrt="tl.sqrt({})",
        tanh="(2.0 / (1.0 + tl.exp(-2.0 * {})) - 1.0)",
        sigmoid="(1.0 / (1.0 + tl.exp(-{})))",
        top="tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
        low="tl.minimum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
        choose="tl.where({}, {}, {})",
        absolute="tl.abs({})",
    ),
)


class Function(NamedTuple):
    """A kernel and the names of the buffers it is launched with."""

    kernel: Any
    names: list[str]
    source: str
    reads_bf16: bool = False

    def bind(self, buffers: Buffers) -> Callable[[int], None]:
        """The launch of step t on the buffers of a chunk."""
        buffers.require_contiguous(self.names)
        columns = [(buffers[name].tensor.unbind(0), buffers[name].offset) for name in self.names]
        count = buffers.rows * buffers.size
        grid = (-(-count // BLOCK),)

        def launch(t: int) -> None:
            tensors: list[Tensor] = [rows_of[(t + offset) % len(rows_of)] for rows_of, offset in columns]
            self.kernel[grid](*tensors, count, buffers.size, t > 0, BLOCK)

        return launch


def function(kernel: Kernel, dtype: torch.dtype) -> Function:
    """Write a kernel. Raises Unsupported where Triton is absent."""
    if importlib.util.find_spec("triton") is None:
        raise Unsupported("triton is not installed")
    if len(kernel.passes) > 1:
        raise Unsupported("layer normalisation has no kernel on CUDA")
    names, source = _source(kernel)
    return Function(_load(source), names, source)


def _source(kernel: Kernel) -> tuple[list[str], str]:
    arrays = [*kernel.passes[0].loads, *(array for array, _ in kernel.stores)]
    names = list(dict.fromkeys(array.name for array in arrays))
    lines = [
        "import triton",
        "import triton.language as tl",
        "",
        "",
        "@triton.jit",
        f"def step({', '.join(names)}, count, size, later, BLOCK: tl.constexpr):",
        "    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
        "    inside = at < count",
        "    row = at // size",
        "    unit = at % size",
    ]
    for array in kernel.passes[0].loads:
        # The step before the first has no output, and no gradient of one.
        mask = "inside & later" if array.name == "dy" else "inside"
        for j, name in enumerate(array.scalars):
            lines.append(f"    {name} = tl.load({array.name} + {_index(array, j)}, mask={mask}, other=0.0)")
    lines += [f"    {line}" for line in kernel.passes[0].lines]
    for array, scalars in kernel.stores:
        for j, scalar in enumerate(scalars):
            # A constant becomes a block by being added to one.
            lines.append(f"    tl.store({array.name} + {_index(array, j)}, {scalar} + at * 0.0, mask=inside)")
    return names, "\n".join(lines) + "\n"


def _index(array: Array, j: int) -> str:
    if array.kind == "one":
        return "at * 0"
    if array.kind == "row":
        return "row"
    return f"(row * {array.blocks} + {j}) * size + unit" if array.batched else f"{j} * size + unit"


@functools.cache
def _load(source: str) -> Any:
    """The kernel of a source; Triton reads its text back through `linecache`, so no file is needed."""
    file = f"<seqlm kernel {hashlib.sha256(source.encode()).hexdigest()[:24]}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, file, "exec"), names)
    return names["step"]
