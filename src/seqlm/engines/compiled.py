"""Kernels for the CPU: the gates of a cell and their gradient as C, compiled at first use if there is a compiler.

    gates -> trace -> program -> kernels -> lower -> passes -> [compiled] -> kernel_body -> chunk

One call does a whole step of all rows, on all threads, without a buffer in between. Compiled code is kept in the
cache (`seqlm.cache`: a private folder, digests), named by its content and the processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..cache.entries import entry
from ..cache.private import private_folder
from ..device import processor
from ..terminal import status
from .buffers import Buffers
from .passes import Array, Kernel, Language, Pass, Unsupported, operations
from .prelude import header

Compiled = Callable[..., None]  # by ctypes
WIDE = ["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []  # gcc would use half of AVX-512
TRIES = 5  # of compiling, if the cache is deleted meanwhile: without its kernel a run would have other bits
FLAGS = ("-O3", "-march=native", *WIDE, "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")

LANGUAGE = Language(
    assign=lambda name, value: f"const real {name} = {value};",
    accumulate=lambda name, value: f"{name} += {value};",
    kept=lambda number: f"kept[{number} * size + unit]",
    number=lambda value: f"((real){value!r})" if abs(value) < float("inf") else f"((real){'-' * (value < 0)}INFINITY)",
    operations=operations(
        exp="EXP({})",
        log="LOG({})",
        sqrt="SQRT({})",
        tanh="TANH({})",
        sigmoid="((real)1 / ((real)1 + EXP(-{})))",
        top="({0} > {1} || {0} != {0} ? {0} : {1})",  # NaN stays NaN
        low="({0} < {1} || {0} != {0} ? {0} : {1})",
        choose="({0} ? {1} : {2})",
        absolute="({0} < 0 ? -{0} : {0})",
    ),
)


class Bound:
    """Buffers of a chunk as a compiled function takes them."""

    def __init__(self, names: list[str], buffers: Buffers) -> None:
        buffers.require_contiguous(names)
        chosen = [buffers[name] for name in names]
        self.keep = [buffer.tensor for buffer in chosen]
        count = len(chosen)
        self.base = (ctypes.c_void_p * count)(*(tensor.data_ptr() for tensor in self.keep))
        longs = ctypes.c_long * count
        self.stride = longs(*(tensor.stride(0) * tensor.element_size() for tensor in self.keep))
        self.offset = longs(*(buffer.offset for buffer in chosen))
        self.length = longs(*(tensor.shape[0] for tensor in self.keep))  # len() of a tensor takes a microsecond
        self.arguments = self.base, self.stride, self.offset, self.length


class Call:
    """A compiled step, bound to the buffers of a chunk: call it with t."""

    def __init__(self, function: Compiled, names: list[str], buffers: Buffers) -> None:
        self.function, self.bound = function, Bound(names, buffers)
        rows, size = buffers.rows, buffers.size
        threads = torch.get_num_threads() if rows * size >= 2048 else 1
        self.numbers = (ctypes.c_long(rows), ctypes.c_long(size), ctypes.c_long(min(threads, rows)))

    def __call__(self, t: int) -> None:
        self.function(*self.bound.arguments, t, *self.numbers)


class Variant(NamedTuple):
    """A compiled step for buffers of certain types, and the names of the buffers it is called with."""

    step: Compiled
    names: list[str]
    source: str


class Function:
    """A kernel, compiled for the types of the buffers it is bound to: those in bfloat16 are widened as they are read.

    What is stored in NAME is rounded to NAME_bf16 too, if there is such a buffer.
    """

    reads_bf16 = True

    def __init__(self, kernel: Kernel, dtype: torch.dtype) -> None:
        self.kernel, self.dtype = kernel, dtype
        self.variants: dict[frozenset[str], Variant] = {}
        self.variant(frozenset())

    def bind(self, buffers: Buffers) -> Call:
        variant = self.variant(buffers.narrow())
        return Call(variant.step, variant.names, buffers)

    def variant(self, narrow: frozenset[str]) -> Variant:
        """The step where the buffers named are in bfloat16. Raises Unsupported if that cannot be compiled here."""
        if narrow not in self.variants:
            names, source = _source(self.kernel, self.dtype, narrow)
            self.variants[narrow] = Variant(library(source).step, names, source)
        return self.variants[narrow]


def compiler() -> str | None:
    """The C compiler, if there is one: $CC, gcc or cc."""
    if platform.system() != "Linux":
        return None
    return next((found for name in (os.environ.get("CC"), "gcc", "cc") if name and (found := shutil.which(name))), None)


def function(kernel: Kernel, dtype: torch.dtype) -> Function:
    """Compile a kernel. Raises Unsupported if that cannot be done here."""
    if dtype not in (torch.float32, torch.float64):
        raise Unsupported(f"no kernels for {dtype}")
    return Function(kernel, dtype)


def library(source: str) -> ctypes.CDLL:
    """Compile a source. Raises Unsupported if that cannot be done here."""
    program = compiler()
    if program is None:
        raise Unsupported("no C compiler was found")
    return _load(source, program)


def optional(source: str, name: str) -> Compiled | None:
    """A function of a source, or None where it cannot be compiled."""
    try:
        return getattr(library(source), name)  # type: ignore[no-any-return]
    except Unsupported:
        return None


def call(function: Compiled, tensors: Iterable[Tensor], *numbers: int) -> None:
    """Call a compiled function with the addresses of tensors, and then with whole numbers."""
    function(*(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors), *map(ctypes.c_long, numbers))


def _source(kernel: Kernel, dtype: torch.dtype, narrow: frozenset[str]) -> tuple[list[str], str]:
    """The names of the buffers of a step, in the order of its arguments, and its C; `narrow` ones are in bfloat16."""
    names, outputs = buffer_names(kernel, narrow)
    lines = [
        header(dtype, narrow),
        "void step(char **base, const long *stride, const long *offset, const long *length,\n"
        "          long t, long rows, long size, long threads) {",
        *pointers(names, outputs, narrow),
        "    #pragma omp parallel num_threads(threads) if(threads > 1)\n    {",
        "    const long worker = omp_get_thread_num(), first = 0, last = size;",
    ]
    if kernel.kept:
        lines.append(f"    real *kept = malloc({kernel.kept} * size * sizeof(real));")
    lines.append("    #pragma omp for schedule(static)\n    for (long row = 0; row < rows; row++) {")
    lines += [f"        {line}" for line in row_loops(kernel, narrow)]
    lines.append("    }")
    lines += ["    free(kept);"] if kernel.kept else []
    lines.append("    }\n}\n")
    return names, "\n".join(lines)


def buffer_names(kernel: Kernel, narrow: frozenset[str]) -> tuple[list[str], list[str]]:
    """The buffers that a kernel reads or writes, and those among them that it writes, rounded twins too."""
    outputs = [array.name for array, _ in kernel.stores]
    outputs += [twin for name in outputs if (twin := f"{name}_bf16") in narrow]
    read = [array.name for one in kernel.passes for array in one.loads]
    return list(dict.fromkeys(read + outputs)), outputs


def pointers(names: Sequence[str], outputs: Collection[str], narrow: Collection[str]) -> list[str]:
    """Lines that find each buffer's row of step t."""
    lines = []
    for i, name in enumerate(names):
        kind = ("" if name in outputs else "const ") + ("bf16" if name in narrow else "real")
        lines.append(f"    {kind} *{name} = ({kind} *)(base[{i}] + (t + offset[{i}]) % length[{i}] * stride[{i}]);")
    return lines


def row_loops(kernel: Kernel, narrow: Collection[str]) -> list[str]:
    """The loops of a kernel over the units from `first` to `last` of a row."""
    last = kernel.passes[-1]
    return [line for one in kernel.passes for line in _pass(one, kernel.stores if one is last else [], narrow)]


def _pass(one: Pass, stores: list[tuple[Array, list[str]]], narrow: Collection[str]) -> list[str]:
    """The loop of a pass over the units of a row, and what stands around it."""
    body = []
    for array in one.loads:
        for j, name in enumerate(array.scalars):
            text = f"{array.name}[{_index(array, j)}]"
            text = f"WIDE({text})" if array.name in narrow else text
            if array.name == "dy":  # of the step before: there is none before the first
                text = f"(t > 0 ? {text} : (real)0)"
            body.append(LANGUAGE.assign(name, text))
    body += one.lines
    body += [f"kept[{number} * size + unit] = {name};" for name, number in one.kept.items()]
    after: list[str] = []  # what is stored once a row
    for array, scalars in stores:
        to = after if array.kind == "row" else body
        for j, scalar in enumerate(scalars):
            place, rounded = _index(array, j), f"NARROW({scalar})"
            to.append(f"{array.name}[{place}] = {rounded if array.name in narrow else scalar};")
            to += [f"{array.name}_bf16[{place}] = {rounded};"] * (f"{array.name}_bf16" in narrow)
    reduction = f" reduction(+:{','.join(one.sums)})" if one.sums else ""
    return [
        *one.before,
        *(f"real {name} = 0;" for name in one.sums),
        f"#pragma omp simd{reduction}",
        "for (long unit = first; unit < last; unit++) {",
        *(f"    {line}" for line in body),
        "}",
        *after,
    ]


def _index(array: Array, j: int) -> str:
    if array.kind == "one":
        return "0"
    if array.kind == "row":
        return "row"
    row = "worker" if array.kind == "sum" else "row"
    return f"{row} * {array.blocks} * size + {j} * size + unit" if array.batched else f"{j} * size + unit"


@functools.cache
def _load(source: str, program: str) -> ctypes.CDLL:
    """Compile a source, or find it compiled."""
    system = [*platform.libc_ver(), processor()]
    key = hashlib.sha256("\0".join([source, program, *FLAGS, *system]).encode()).hexdigest()[:24]
    compile_into = functools.partial(_compile, program, source)

    def made() -> ctypes.CDLL:
        return ctypes.CDLL(str(entry(private_folder("kernels") / key, compile_into, lambda it: it) / "kernel.so"))

    try:
        for _ in range(TRIES - 1):
            with suppress(OSError):
                return made()
        return made()
    except (OSError, subprocess.SubprocessError) as error:
        raise Unsupported(f"compiling failed: {error}") from error


def _compile(program: str, source: str, folder: Path) -> None:
    """Write the source, kernel.c, and the library, kernel.so."""
    text, made = folder / "kernel.c", folder / "kernel.so"
    text.write_text(source, encoding="utf-8")
    command = [program, *FLAGS, str(text), "-o", str(made), "-lm"]
    with status("compiling a kernel"):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} was deleted meanwhile")
        raise Unsupported(f"{program} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
