"""The softmax of every row and the nats of its target, in one pass over the logits.

linear_cross_entropy -> [cross_entropy] -> compiled

By torch's operations, logits in bfloat16 are widened, normalised, exponentiated and narrowed again, each time through
memory: a fifth of the step of a small model with 10,000 words.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from . import compiled
from .passes import kernels_allowed
from .prelude import header

LEAST_WORK = 2**17  # logits: fewer are not worth a second thread


def nats_and_slope(logits: Tensor, targets: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
    """ln sum_v exp(z_v) - z_target of each row in float32 at least, and softmax(z) - one-hot in the type of the logits.

    logits z (N, V), which are overwritten; targets (N) int64, in the vocabulary. Without `slope`, what is second
    means nothing.
    """
    kernel = _kernel(logits.dtype) if _served(logits) else None
    if kernel is None:
        return _by_torch(logits, targets.unsqueeze(1), slope)
    rows, size = logits.shape
    threads = torch.get_num_threads() if logits.numel() >= LEAST_WORK else 1
    nats, scratch = torch.empty(rows), torch.empty(threads, size)
    compiled.call(kernel, (logits, targets.contiguous(), nats, scratch), rows, size, slope, threads)
    return nats, logits


def _served(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and logits.is_contiguous() and kernels_allowed()


def _by_torch(logits: Tensor, targets: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
    logs = logits.to(torch.promote_types(logits.dtype, torch.float32))
    torch.log_softmax(logs, -1, out=logs)
    nats = -logs.gather(1, targets).squeeze(1)
    if not slope:
        return nats, logs
    return nats, logs.exp_().scatter_add_(1, targets, logs.new_full((), -1.0).expand_as(targets)).to(logits.dtype)


@functools.cache
def _kernel(dtype: torch.dtype) -> compiled.Compiled | None:
    """The kernel for logits of a type, if there is one and a compiler."""
    kinds = {torch.float32: ("real", "", ""), torch.bfloat16: ("bf16", "WIDE", "NARROW")}
    if dtype not in kinds:
        return None
    kind, wide, narrow = kinds[dtype]
    source = _SOURCE.replace("NUMBER", kind).replace("WIDEN", wide).replace("ROUND", narrow)
    return compiled.optional(header(torch.float32, {"bf16"}) + source, "cross_entropy")


# Every thread takes whole rows, so that no bit depends on their number. Sums of a block are added up in float64.
_SOURCE = """
typedef NUMBER number;
enum { BLOCK = 4096 };

void cross_entropy(number *logits, const long *targets, real *nats, real *scratch, long rows, long size, long slope,
                   long threads) {
    #pragma omp parallel for schedule(static) num_threads(threads) if(threads > 1)
    for (long row = 0; row < rows; row++) {
        number *z = logits + row * size;
        real *p = scratch + omp_get_thread_num() * size, most = -INFINITY;
        #pragma omp simd reduction(max:most)
        for (long v = 0; v < size; v++) {
            p[v] = WIDEN(z[v]);
            most = p[v] > most ? p[v] : most;
        }
        const real target = p[targets[row]];
        double sum = 0;
        for (long first = 0; first < size; first += BLOCK) {
            const long last = first + BLOCK < size ? first + BLOCK : size;
            real part = 0;
            #pragma omp simd reduction(+:part)
            for (long v = first; v < last; v++) part += p[v] = EXP(p[v] - most);
            sum += part;
        }
        nats[row] = LOG((real)sum) + (most - target);
        if (!slope) continue;
        const real share = 1 / sum;
        p[targets[row]] -= sum;
        #pragma omp simd
        for (long v = 0; v < size; v++) z[v] = ROUND(p[v] * share);
    }
}
"""
