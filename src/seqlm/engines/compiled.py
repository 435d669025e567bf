"""Kernels for the CPU: the gates of a cell and their gradient as C, compiled at first use if there is a compiler.

One call does a whole step of all rows, on all threads, without a buffer in between. Compiled code is kept in the
cache folder ($SEQLM_CACHE, or seqlm in the user's cache folder), named by its content and the processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from ..files import flush
from .homes import Place
from .lower import Kernel, Language, Unsupported, Value, operations

Compiled = Callable[..., None]  # by ctypes
WIDE = ["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []  # gcc would use half of AVX-512
FLAGS = ("-O3", "-march=native", *WIDE, "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")

LANGUAGE = Language(
    assign=lambda name, value: f"const real {name} = {value};",
    accumulate=lambda name, value: f"{name} += {value};",
    kept=lambda place: f"kept[{place} * size + unit]",
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

# Declared here, not in math.h: this way gcc may call the vector versions of the C library.
_HEADER = """
#include <omp.h>
#include <stdlib.h>
#define INFINITY (__builtin_inff())
#define VECTOR __attribute__((simd("notinbranch"), const))
{declarations}
typedef {real} real;
"""
_FUNCTIONS = {"EXP": "exp", "LOG": "log", "SQRT": "sqrt", "TANH": "tanh"}


class Call:
    """A compiled step, bound to the buffers of a window: call it with t."""

    def __init__(self, function: Compiled, homes: list[str], places: Mapping[str, Place], rows: int, size: int) -> None:
        self.function = function
        chosen = [places[home] for home in homes]
        self.keep = [place.tensor for place in chosen]
        count = len(chosen)
        self.base = (ctypes.c_void_p * count)(*(tensor.data_ptr() for tensor in self.keep))
        longs = ctypes.c_long * count
        self.stride = longs(*(tensor.stride(0) * tensor.element_size() for tensor in self.keep))
        self.offset = longs(*(place.offset for place in chosen))
        self.length = longs(*(len(tensor) for tensor in self.keep))
        if not all(tensor[0].is_contiguous() for tensor in self.keep):
            raise ValueError("a kernel reads and writes contiguous buffers only")
        threads = torch.get_num_threads() if rows * size >= 2048 else 1
        self.arguments = (ctypes.c_long(rows), ctypes.c_long(size), ctypes.c_long(min(threads, rows)))

    def __call__(self, t: int) -> None:
        self.function(self.base, self.stride, self.offset, self.length, t, *self.arguments)


class Function(NamedTuple):
    """A compiled step and the homes of the buffers it is called with."""

    function: Compiled
    homes: list[str]
    source: str

    def bind(self, places: Mapping[str, Place], rows: int, size: int) -> Call:
        return Call(self.function, self.homes, places, rows, size)


def compiler() -> str | None:
    """The C compiler, if there is one and SEQLM_KERNELS is not 0: $CC, cc or gcc."""
    if os.environ.get("SEQLM_KERNELS") == "0" or platform.system() != "Linux":
        return None
    return next((found for name in (os.environ.get("CC"), "gcc", "cc") if name and (found := shutil.which(name))), None)


def function(kernel: Kernel, dtype: torch.dtype) -> Function:
    """Compile a kernel. Raises Unsupported if that cannot be done here."""
    if dtype not in (torch.float32, torch.float64):
        raise Unsupported(f"no kernels for {dtype}")
    homes, source = _source(kernel, dtype)
    return Function(library(source).step, homes, source)


def library(source: str) -> ctypes.CDLL:
    """Compile a source. Raises Unsupported if that cannot be done here."""
    program = compiler()
    if os.environ.get("SEQLM_KERNELS") == "0":
        raise Unsupported("SEQLM_KERNELS=0")
    if program is None:
        raise Unsupported("no C compiler was found")
    return _load(source, program)


def _source(kernel: Kernel, dtype: torch.dtype) -> tuple[list[str], str]:
    real, suffix = ("float", "f") if dtype is torch.float32 else ("double", "")
    declarations = "\n".join(
        f"extern {real} {name}{suffix}({real}) VECTOR;\n#define {macro} {name}{suffix}"
        for macro, name in _FUNCTIONS.items()
    )
    outputs = {value.home: value for value, _ in kernel.stores}
    inputs = {value.home: value for one in kernel.passes for value, _ in one.loads}
    homes = list(inputs | outputs)
    lines = [_HEADER.format(declarations=declarations, real=real)]
    lines.append(
        "void step(char **base, const long *stride, const long *offset, const long *length,\n"
        "          long t, long rows, long size, long threads) {"
    )
    for i, home in enumerate(homes):
        qualifier = "" if home in outputs else "const "
        lines.append(
            f"    {qualifier}real *{home} = "
            f"({qualifier}real *)(base[{i}] + (t + offset[{i}]) % length[{i}] * stride[{i}]);"
        )
    lines.append("    #pragma omp parallel num_threads(threads) if(threads > 1)\n    {")
    lines.append("    const long worker = omp_get_thread_num();")
    if kernel.places:
        lines.append(f"    real *kept = malloc({kernel.places} * size * sizeof(real));")
    lines.append("    #pragma omp for schedule(static)\n    for (long row = 0; row < rows; row++) {")
    for one in kernel.passes:
        after: list[str] = []  # what is stored once a row
        lines += [f"        {line}" for line in one.before]
        lines += [f"        real {name} = 0;" for name in one.sums]
        reduction = f" reduction(+:{','.join(one.sums)})" if one.sums else ""
        lines.append(f"        #pragma omp simd{reduction}\n        for (long unit = 0; unit < size; unit++) {{")
        body = []
        for value, names in one.loads:
            for j, name in enumerate(names):
                text = f"{value.home}[{_index(value, j)}]"
                if value.home == "dy":  # of the step before: there is none before the first
                    text = f"(t > 0 ? {text} : (real)0)"
                body.append(LANGUAGE.assign(name, text))
        body += one.lines
        body += [f"kept[{place} * size + unit] = {name};" for name, place in one.kept.items()]
        if one is kernel.passes[-1]:
            stores = [
                (value.kind, f"{value.home}[{_index(value, j)}] = {scalar};")
                for value, scalars in kernel.stores
                for j, scalar in enumerate(scalars)
            ]
            body += [line for kind, line in stores if kind != "row"]
            after = [line for kind, line in stores if kind == "row"]
        lines += [f"            {line}" for line in body]
        lines.append("        }")
        lines += [f"        {line}" for line in after]
    lines.append("    }")
    lines += ["    free(kept);"] if kernel.places else []
    lines.append("    }\n}\n")
    return homes, "\n".join(lines)


def _index(value: Value, j: int) -> str:
    if value.kind == "one":
        return "0"
    if value.kind == "row":
        return "row"
    row = "worker" if value.kind == "sum" else "row"
    return f"{row} * {value.blocks} * size + {j} * size + unit" if value.batched else f"{j} * size + unit"


@functools.cache
def _load(source: str, program: str) -> ctypes.CDLL:
    """Compile a source, or find it compiled."""
    system = [*platform.libc_ver(), _processor()]
    key = hashlib.sha256("\0".join([source, program, *FLAGS, *system]).encode()).hexdigest()[:24]
    target = cache_folder() / f"{key}.so"
    try:
        with suppress(OSError):  # not compiled yet, or damaged
            return ctypes.CDLL(str(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        _compile(program, source, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError) as error:
        raise Unsupported(f"compiling failed: {error}") from error


def _compile(program: str, source: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        text, made = Path(folder) / "step.c", Path(folder) / "step.so"
        text.write_text(source, encoding="utf-8")
        done = subprocess.run(
            [program, *FLAGS, str(text), "-o", str(made), "-lm"], capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise Unsupported(f"{program} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
        flush(made)
        made.replace(target)  # whole or not at all, also when two runs compile at once


def cache_folder() -> Path:
    """Where generated kernels are kept: $SEQLM_CACHE, or seqlm in the user's cache folder."""
    if os.environ.get("SEQLM_CACHE"):
        return Path(os.environ["SEQLM_CACHE"]) / "kernels"
    try:
        users = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:  # a user without a home
        raise Unsupported(f"there is no cache folder ({error}); set SEQLM_CACHE") from None
    return Path(users) / "seqlm" / "kernels"


def _processor() -> str:
    """What the compiler's -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return platform.machine() + next(
        (line for line in lines if line.startswith(("flags", "Features"))), platform.processor()
    )
