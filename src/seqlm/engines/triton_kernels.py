"""Kernels for CUDA: the gates of a cell and their gradient in Triton, one launch for a step of all rows.

The same lowering as for the CPU (compiled.py), in another language. Without a GPU the kernels run in Triton's
interpreter (TRITON_INTERPRET=1), which is how they are tested.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..files import write_atomically
from .compiled import cache_folder
from .homes import Place
from .lower import Kernel, Language, Unsupported, Value, operations

BLOCK = 1024  # units a program

LANGUAGE = Language(
    assign=lambda name, value: f"{name} = {value}",
    accumulate=lambda name, value: f"{name} += {value}",  # not reached: see function()
    kept=lambda place: f"kept{place}",
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
    """A kernel and the homes of the buffers it is launched with."""

    kernel: Any
    homes: list[str]
    source: str

    def bind(self, places: Mapping[str, Place], rows: int, size: int) -> Callable[[int], None]:
        """The launch of step t on the buffers of a window."""
        columns = [(place.tensor.unbind(0), place.offset) for place in (places[home] for home in self.homes)]
        assert all(tensors[0].is_contiguous() for tensors, _ in columns)
        grid = (-(-rows * size // BLOCK),)

        def launch(t: int) -> None:
            tensors: list[Tensor] = [rows_of[(t + offset) % len(rows_of)] for rows_of, offset in columns]
            self.kernel[grid](*tensors, rows * size, size, t > 0, BLOCK)

        return launch


def function(kernel: Kernel, dtype: torch.dtype) -> Function:
    """Write a kernel. Raises Unsupported where Triton is absent."""
    if os.environ.get("SEQLM_KERNELS") == "0":
        raise Unsupported("SEQLM_KERNELS=0")
    if importlib.util.find_spec("triton") is None:
        raise Unsupported("triton is not installed")
    if len(kernel.passes) > 1:
        raise Unsupported("layer normalisation has no kernel on CUDA")
    homes, source = _source(kernel)
    return Function(_load(source), homes, source)


def _source(kernel: Kernel) -> tuple[list[str], str]:
    outputs = {value.home: value for value, _ in kernel.stores}
    homes = list({value.home: value for value, _ in kernel.passes[0].loads} | outputs)
    lines = [
        "import triton",
        "import triton.language as tl",
        "",
        "",
        "@triton.jit",
        f"def step({', '.join(homes)}, count, size, later, BLOCK: tl.constexpr):",
        "    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
        "    inside = at < count",
        "    row = at // size",
        "    unit = at % size",
    ]
    for value, names in kernel.passes[0].loads:
        # The step before the first has no output, and no gradient of one.
        mask = "inside & later" if value.home == "dy" else "inside"
        for j, name in enumerate(names):
            lines.append(f"    {name} = tl.load({value.home} + {_index(value, j)}, mask={mask}, other=0.0)")
    lines += [f"    {line}" for line in kernel.passes[0].lines]
    for value, scalars in kernel.stores:
        for j, scalar in enumerate(scalars):
            # A constant becomes a block by being added to one.
            lines.append(f"    tl.store({value.home} + {_index(value, j)}, {scalar} + at * 0.0, mask=inside)")
    return homes, "\n".join(lines) + "\n"


def _index(value: Value, j: int) -> str:
    if value.kind == "one":
        return "at * 0"
    if value.kind == "row":
        return "row"
    return f"(row * {value.blocks} + {j}) * size + unit" if value.batched else f"{j} * size + unit"


@functools.cache
def _load(source: str) -> Any:
    """The kernel of a source; Triton reads it back from a file."""
    name = "seqlm_" + hashlib.sha256(source.encode()).hexdigest()[:24]
    file = cache_folder() / f"{name}.py"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            write_atomically(file, source)  # others may be reading it
    except OSError as error:
        raise Unsupported(f"{file} cannot be written: {error}") from error
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.step
