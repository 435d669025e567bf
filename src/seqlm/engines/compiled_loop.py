"""The whole loop over time in C: the product with the recurrent weight and the gates, in one call a chunk.

    ... -> kernels -> lower -> passes -> compiled -> [compiled_loop] -> persistent -> chunk

Where there are rows enough, every thread takes some of them through all steps and waits for nobody. Else it takes
some units, keeps their part of the packed weight in its cache, and waits for the others once a step, for the state
(backwards: for dr) of their units.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor

from .buffers import Buffers
from .compiled import Bound, buffer_names, call, library, pointers, row_loops
from .pace import Pace
from .passes import Array, Kernel, Unsupported
from .prelude import header

LEAST_WORK = 2**16  # multiplications of a step: below, threads cost more than they save
LEAST_ROWS = 4  # of a thread: for fewer, reading the weight takes longer than to multiply by it


class Direction(NamedTuple):
    """The buffer that a step multiplies by the recurrent weight, the one for the sums, and the order of both."""

    x: str  # rows of this buffer
    out: str
    backwards: bool  # the kernel comes before the product, and the last step is the first

    def factors(self, narrow: Collection[str]) -> str:
        """The buffer that is multiplied: x, or its rounded twin if there is one."""
        return f"{self.x}_bf16" if f"{self.x}_bf16" in narrow else self.x

    def settings(self, gates: int) -> dict[str, object]:
        """Of out[gate][unit] = sum_k x[k] weight[gate][unit][k], or out[unit] += sum_k x[k] weight[k][unit]."""
        if self.backwards:
            return {
                "GATES": 1, "DEPTH": f"({gates} * size)", "STORE": "+=",
                "UNIT_STRIDE": 1, "GATE_STRIDE": 0, "DEPTH_STRIDE": "size",
            }  # fmt: skip
        return {
            "GATES": gates, "DEPTH": "size", "STORE": "=",
            "UNIT_STRIDE": "size", "GATE_STRIDE": "(size * size)", "DEPTH_STRIDE": 1,
        }  # fmt: skip


FORWARD, BACKWARD = Direction("carry0", "r", False), Direction("dr", "next0", True)


class Loop:
    """A kernel and its product, compiled for the types of the buffers that it is bound to."""

    def __init__(self, kernel: Kernel, dtype: torch.dtype, direction: Direction) -> None:
        """Compile it for buffers of one type. Raises Unsupported if that cannot be done."""
        if len(kernel.passes) > 1:
            raise Unsupported("its gates add up over the units of a row")
        self.kernel, self.dtype, self.direction = kernel, dtype, direction
        self.variants: dict[frozenset[str], tuple[list[str], ctypes.CDLL]] = {}
        self.paces: dict[tuple[int, int, int], Pace] = {}
        self.variant(frozenset())

    def variant(self, narrow: frozenset[str]) -> tuple[list[str], ctypes.CDLL]:
        """The names of its buffers, and the library, where the buffers named are in bfloat16."""
        if narrow not in self.variants:
            names, source = _source(self.kernel, self.dtype, self.direction, narrow)
            compiled = library(source)
            compiled.packed_bytes.restype = ctypes.c_long
            self.variants[narrow] = names, compiled
        return self.variants[narrow]

    def bind(self, buffers: Buffers, weight: Tensor) -> Callable[[int, int], None]:
        """A function that runs the steps from a first to a last; weight (G*H, H)."""
        narrow = buffers.narrow()
        names, compiled = self.variant(narrow)
        size, rows = buffers.size, buffers.rows
        most = torch.get_num_threads() if rows * weight.numel() >= LEAST_WORK else 1
        by_rows = rows >= LEAST_ROWS * most
        pace = self.paces.setdefault((rows, size, most), Pace(most, settled=by_rows))
        weight = weight.to(torch.bfloat16 if self.direction.factors(narrow) in narrow else self.dtype).contiguous()
        packed = torch.empty(compiled.packed_bytes(ctypes.c_long(size)), dtype=torch.uint8)
        call(compiled.pack, (weight, packed), size, most)
        bound = Bound(names, buffers)

        def run(first: int, last: int) -> None:
            steps = (last - 1, first - 1) if self.direction.backwards else (first, last)
            with pace.threads(last - first) as threads:
                numbers = *steps, rows, size, threads, by_rows
                compiled.loop(*bound.arguments, *map(ctypes.c_long, numbers), ctypes.c_void_p(packed.data_ptr()))

        return run


def _source(kernel: Kernel, dtype: torch.dtype, direction: Direction, narrow: frozenset[str]) -> tuple[list[str], str]:
    """The names of the buffers of a loop, in the order of its arguments, and its C."""
    names, outputs = buffer_names(kernel, narrow)
    x, out = direction.factors(narrow), direction.out
    names, outputs = list(dict.fromkeys([*names, x, out])), [*outputs, out]
    gates = next(array.blocks for array in _arrays(kernel) if array.name == ("dr" if direction.backwards else "r"))
    settings = {"NARROW_FACTORS": int(x in narrow)} | direction.settings(gates)
    product = f"        multiply({x}, packed, {out}, first_row, last_row, size, first_block, last_block);"
    step = [_STEP, *row_loops(kernel, narrow), "        }"]
    barrier = "        if (!by_rows) {\n        #pragma omp barrier\n        }"
    lines = [
        header(dtype, {"bf16"}),
        *(f"#define {name} {value}" for name, value in settings.items()),
        _PRODUCT,
        _LOOP,
        f"        for (long t = begin; t != end; t += {-1 if direction.backwards else 1}) {{",
        *pointers(names, outputs, narrow),
        *([*step, barrier, product] if direction.backwards else [product, *step, barrier]),
        "        }\n    }\n}\n",
    ]
    return names, "\n".join(lines)


def _arrays(kernel: Kernel) -> list[Array]:
    return [array for one in kernel.passes for array in one.loads] + [array for array, _ in kernel.stores]


_LOOP = """
void loop(char **base, const long *stride, const long *offset, const long *length, long begin, long end,
          long rows, long size, long threads, long by_rows, const factor *packed) {
    #pragma omp parallel num_threads(threads) if(threads > 1)
    {
        const long thread = omp_get_thread_num(), all = omp_get_num_threads(), blocks = (size + UNITS - 1) / UNITS;
        const long first_row = by_rows ? rows * thread / all : 0, last_row = by_rows ? rows * (thread + 1) / all : rows;
        const long first_block = by_rows ? 0 : blocks * thread / all;
        const long last_block = by_rows ? blocks : blocks * (thread + 1) / all;
        const long end_unit = last_block * UNITS < size ? last_block * UNITS : size;
        const long worker = by_rows ? thread : 0;  /* whose sums these are: those of other units are others' anyway */
"""

# Block by block, or vectors would begin elsewhere with other threads, and functions of them round otherwise.
_STEP = """
        for (long row = first_row; row < last_row; row++)
        for (long first = first_block * UNITS, last; first < end_unit; first = last) {
            last = by_rows || first + UNITS > end_unit ? end_unit : first + UNITS;
"""

# A tile of sums, some rows by the gates of a block of units, stays in registers while the factors run past.
# Packed, the weight is a panel for each block: for each k (of bfloat16: for each two) the factors of its units.
_PRODUCT = """
#if NARROW_FACTORS && defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define BYTES 64
#define REGISTERS 32
#elif defined(__AVX__)
#define BYTES 32
#define REGISTERS 16
#else
#define BYTES 16
#define REGISTERS 16
#endif
#include <string.h>
#if NARROW_FACTORS
typedef unsigned factor;  /* two of bfloat16, the first in the lower half */
enum { PAIR = 2 };
typedef bf16 number;
#else
typedef real factor;
enum { PAIR = 1 };
typedef real number;
#endif
typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(real))));
typedef factor factors __attribute__((vector_size(BYTES), aligned(sizeof(factor))));
enum {
    LANES = BYTES / sizeof(real), PER_GATE = GATES == 1 ? 2 : 1, VECTORS = GATES * PER_GATE, UNITS = PER_GATE * LANES,
    FITS = (REGISTERS - 1) / VECTORS - 1, TILE = FITS < 1 ? 1 : FITS > 10 ? 10 : FITS
};
#define INLINE static inline __attribute__((always_inline))

INLINE vec multiply_add(vec sum, factor x, factors w) {
#if !NARROW_FACTORS
    return sum + x * w;
#elif defined(__AVX512BF16__)
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x), (__m512bh)w);
#else
    const vec odd = (vec)(w & 0xffff0000u), even = (vec)(w << 16);
    return sum + WIDE(x) * even + WIDE(x >> 16) * odd;
#endif
}

INLINE void tile(const int n, const number *x, const factor *panel, real *out, const long size, const long width) {
    vec sums[TILE][VECTORS];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < VECTORS; v++) sums[i][v] = (vec){0};
    for (long k = 0; k < DEPTH; k += PAIR, panel += VECTORS * LANES) {
        factors w[VECTORS];
        #pragma GCC unroll 10
        for (int v = 0; v < VECTORS; v++) w[v] = *(const factors *)(panel + v * LANES);
        #pragma GCC unroll 10
        for (int i = 0; i < n; i++) {
            factor one;
#if NARROW_FACTORS
            if (k + 1 == DEPTH) one = x[i * DEPTH + k];
            else
#endif
            memcpy(&one, x + i * DEPTH + k, sizeof one);
            #pragma GCC unroll 10
            for (int v = 0; v < VECTORS; v++) sums[i][v] = multiply_add(sums[i][v], one, w[v]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int gate = 0; gate < GATES; gate++) {
            real *to = out + (i * GATES + gate) * size;
            if (width == UNITS)
                for (int v = 0; v < PER_GATE; v++) *(vec *)(to + v * LANES) STORE sums[i][gate * PER_GATE + v];
            else
                for (long unit = 0; unit < width; unit++)
                    to[unit] STORE sums[i][gate * PER_GATE + unit / LANES][unit % LANES];
        }
}

INLINE void multiply(const number *x, const factor *packed, real *out, const long first_row, const long last_row,
                     const long size, const long first_block, const long last_block) {
    const long rows = last_row - first_row, tiles = (rows + TILE - 1) / TILE, high = (rows + tiles - 1) / tiles;
    for (long block = first_block; block < last_block; block++) {
        const factor *panel = packed + block * ((DEPTH + PAIR - 1) / PAIR) * VECTORS * LANES;
        const long width = size - block * UNITS < UNITS ? size - block * UNITS : UNITS;
        for (long row = first_row; row < last_row; row += high) {
            const number *some = x + row * DEPTH;
            real *to = out + row * GATES * size + block * UNITS;
#define CASE(n) case n: if (n <= TILE) tile(n <= TILE ? n : 1, some, panel, to, size, width); break;
            switch (last_row - row < high ? last_row - row : high) {
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10)
            }
        }
    }
}

long packed_bytes(long size) {
    return ((size + UNITS - 1) / UNITS) * ((DEPTH + PAIR - 1) / PAIR) * VECTORS * LANES * sizeof(factor);
}

INLINE factor pack_one(const number *from, const long k, const long size) {
    factor one = 0;
    if (PAIR == 1 || (DEPTH_STRIDE == 1 && k * 2 + 1 < DEPTH)) memcpy(&one, from, sizeof one);
#if NARROW_FACTORS
    else one = from[0] | (k * 2 + 1 < DEPTH ? (unsigned)from[DEPTH_STRIDE] << 16 : 0);
#endif
    return one;
}

/* Of a block of units, all k from `begin` to `end`. */
INLINE void pack_part(const number *weight, factor *to, const long block, const long begin, const long end,
                      const long size) {
    const long width = size - block * UNITS < UNITS ? size - block * UNITS : UNITS;
    for (long gate = 0; gate < GATES; gate++, to += UNITS) {
        const number *from = weight + block * UNITS * UNIT_STRIDE + gate * GATE_STRIDE;
        if (width < UNITS)
            for (long k = begin; k < end; k++)
                for (long one = width; one < UNITS; one++) to[k * VECTORS * LANES + one] = 0;
        if (UNIT_STRIDE == 1)
            for (long k = begin; k < end; k++) {
                #pragma omp simd
                for (long one = 0; one < width; one++)
                    to[k * VECTORS * LANES + one] = pack_one(from + one + k * PAIR * DEPTH_STRIDE, k, size);
            }
        else
            for (long one = 0; one < width; one++, from += UNIT_STRIDE)
                for (long k = begin; k < end; k++)
                    to[k * VECTORS * LANES + one] = pack_one(from + k * PAIR * DEPTH_STRIDE, k, size);
    }
}

/* The weight is read in the order in which it lies in memory, `strip` many k at once: with rows along k block by block,
   a few cache lines of each, else with some rows at once. */
void pack(const number *weight, factor *packed, long size, long threads) {
    const long blocks = (size + UNITS - 1) / UNITS, pairs = (DEPTH + PAIR - 1) / PAIR;
    const int along_units = UNIT_STRIDE == 1;  /* else along k */
    const long strip = along_units ? 8 : 128, strips = (pairs + strip - 1) / strip;
    const long outer = along_units ? strips : blocks, inner = along_units ? blocks : strips;
    #pragma omp parallel for schedule(static) num_threads(threads) if(threads > 1)
    for (long i = 0; i < outer; i++)
        for (long j = 0; j < inner; j++) {
            const long block = along_units ? j : i, begin = (along_units ? i : j) * strip;
            const long end = begin + strip < pairs ? begin + strip : pairs;
            pack_part(weight, packed + block * pairs * VECTORS * LANES, block, begin, end, size);
        }
}
"""
