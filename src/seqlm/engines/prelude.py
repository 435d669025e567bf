"""The beginning of every C source: its type of number, its functions, and how to read bfloat16.

compiled, compiled_loop, cross_entropy, column_sums -> [prelude]
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

# Declared here, not in math.h: this way gcc may call the vector versions of the C library.
_HEADER = """
#include <omp.h>
#include <stdlib.h>
#define INFINITY (__builtin_inff())
#define VECTOR __attribute__((simd("notinbranch"), const))
{declarations}
typedef {real} real;
typedef union {{ float value; unsigned bits; }} both;
"""
# Inline they are vectors where their loop is, the last units of a row too, with the same bits in vectors of any length.
_INLINE = """
static inline real EXP(real x) {  /* 2^n e^r, |r| <= ln(2) / 2; within 2 units of the last digit */
    x = x > 89 ? 89 : x < -104 ? -104 : x;  /* infinity and 0, from there on */
    const both shifted = {.value = x * 1.44269504f + 12582912.0f};  /* n in its last bits */
    const real n = shifted.value - 12582912.0f, r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    const real p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r
                     + 4.1665795894e-2f) * r + 1.6666665459e-1f) * r + 5.0000001201e-1f;
    const int whole = (int)(shifted.bits - 0x4b400000u), half = whole >> 1;  /* 2^n may be no number, its halves are */
    const both one = {.bits = (unsigned)(half + 127) << 23}, two = {.bits = (unsigned)(whole - half + 127) << 23};
    return (p * r * r + r + 1) * one.value * two.value;
}
static inline real TANH(real x) {  /* of small x a polynomial, which keeps its digits */
    const real size = x < 0 ? -x : x, square = x * x, far = 1 - 2 / (EXP(2 * size) + 1);
    const real p = (((-5.70498872745e-3f * square + 2.06390887954e-2f) * square - 5.37397155531e-2f) * square
                    + 1.33314422036e-1f) * square - 3.33332819422e-1f;
    return size < 0.625f ? p * square * x + x : x < 0 ? -far : far;
}
"""
_NARROW = """
typedef unsigned short bf16;  /* the upper half of a float */
static inline real WIDE(bf16 x) { return ((both){.bits = (unsigned)x << 16}).value; }
static inline bf16 NARROW(real x) {  /* to the nearest, ties to even */
    const unsigned bits = ((both){.value = x}).bits;
    return x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
"""
_FUNCTIONS = {"EXP": "exp", "LOG": "log", "SQRT": "sqrt", "TANH": "tanh"}


def header(dtype: torch.dtype, narrow: Iterable[str]) -> str:
    """The beginning of a source: its type of number, and how to read bfloat16."""
    real, suffix = ("float", "f") if dtype is torch.float32 else ("double", "")
    inline = {"EXP", "TANH"} if dtype is torch.float32 else set()
    declarations = "\n".join(
        f"extern {real} {name}{suffix}({real}) VECTOR;\n#define {macro} {name}{suffix}"
        for macro, name in _FUNCTIONS.items()
        if macro not in inline
    )
    functions = (_INLINE if inline else "") + (_NARROW if narrow else "")
    return _HEADER.format(declarations=declarations, real=real) + functions
