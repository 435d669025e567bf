"""torch's own fused LSTM, GRU and RNN (oneDNN on CPU, cuDNN on CUDA), reading the cell's own parameters.

layer -> pick -> scan | [native] | deferred | fused

Its threads wait for each other at every step, inside of a library: without a gradient, pace says how many there are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

from ..cells import Carry, Cell, ElmanCell, GatedCell, GRUCell, Hidden, LSTMCarry, LSTMCell, padding_mask, state_after
from .pace import Pace

_paces: dict[tuple[object, ...], Pace] = {}  # by all that time and bits of a chunk may depend on


def refusal(cell: Cell) -> str | None:
    """Why this engine cannot serve `cell` exactly, or None when it can."""
    if dropped := [name for name, value in cell.dropout._asdict().items() if value and name != "weight"]:
        return f"torch's cells have no dropout of {' and '.join(dropped)}"
    # The exact class: a subclass or a wrapper may change the equations.
    if type(cell) is LSTMCell:
        return None if cell.input_gate == "free" else f"torch's LSTM has no {cell.input_gate} input gate"
    if type(cell) is GRUCell:
        form = {"before": "resets before it", "none": "has no reset gate"}.get(cell.reset)
        return form and f"torch's GRU resets after the matmul, this cell {form}"
    if type(cell) is ElmanCell:
        if cell.activation in ("tanh", "relu"):
            return None
        return f"torch's RNN knows tanh and relu, this cell uses {cell.activation}"
    return f"torch has no {type(cell).__name__}"


def run(
    cell: Cell, xs: Tensor, carry: Carry, *, reverse: bool = False, lengths: Tensor | None = None
) -> tuple[Carry, Tensor]:
    """`scan` by torch's kernels: xs (T, B, I), carry -> (carry, ys), ys (T, B, H) in the order of xs."""
    if not isinstance(cell, GatedCell):
        raise ValueError(f"engine=native cannot serve this layer: {refusal(cell)}")
    weights: list[Tensor] = [cell.weight_ih, cell.recurrence(xs.shape[1]).weight]
    if cell.bias_ih is not None and cell.bias_hh is not None:
        weights += [cell.bias_ih, cell.bias_hh]
    # cuDNN keeps what backward needs only in train mode; with dropout 0 the mode changes nothing else.
    layers, dropout, train, bidirectional, batch_first = 1, 0.0, torch.is_grad_enabled(), False, False
    options = (len(weights) == 4, layers, dropout, train, bidirectional, batch_first)
    if reverse:
        xs = xs.flip(0)
    h = carry.h.unsqueeze(0)
    if isinstance(cell, LSTMCell):
        if lengths is not None:
            xs, weights[0] = _hold_memory(xs, weights[0], lengths)
        with _precision_of_lstm(xs.device):
            lstm = partial(torch.lstm, xs.to(h.dtype), (h, carry.c.unsqueeze(0)), weights, *options)
            ys, h, c = _paced(lstm, xs, weights[1])
        last: Carry = LSTMCarry(h.squeeze(0), c.squeeze(0))
    else:
        if isinstance(cell, GRUCell):
            kernel = torch.gru
        else:
            kernel = torch.rnn_tanh if getattr(cell, "activation", None) == "tanh" else torch.rnn_relu
        ys, h = _paced(partial(kernel, xs, h, weights, *options), xs, weights[1])
        last = Hidden(h.squeeze(0))
    if lengths is not None:
        last = last._replace(h=state_after(lengths, ys, carry.h))
    return last, ys.flip(0) if reverse else ys


def _paced(kernel: Callable[[], tuple[Tensor, ...]], xs: Tensor, weight_hh: Tensor) -> tuple[Tensor, ...]:
    """The outputs of a kernel for xs (T, B, I): without a gradient, by as many threads as are fastest now.

    Nothing says that a library's bits do not depend on its threads: the first chunk of one thread is computed again.
    """
    most = torch.get_num_threads()
    if torch.is_grad_enabled() or xs.device.type != "cpu":
        return kernel()
    key = (*xs.shape, *weight_hh.shape, weight_hh.dtype, torch.is_autocast_enabled("cpu"), most)
    pace = _paces.setdefault(key, Pace(most))
    with pace.threads(len(xs)) as count, _threads(count):
        first = count not in pace.seconds
        found = kernel()
    if count == most or not first:
        return found
    usual = kernel()
    pace.settled = not all(map(torch.equal, usual, found))
    return usual


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads of torch, for a while."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hold_memory(xs: Tensor, weight: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and input weights of an LSTM with one input more, 1 on padding, so that c stays as it is there.

    It adds -10,000 to the input gate, whose sigmoid is then 0, and 10,000 to the forget gate, whose sigmoid is then 1:
    c_t = 1 * c_{t-1} + 0 * g, exactly, and so are its gradients.
    """
    padding = padding_mask(len(xs), lengths)
    saturate = weight.new_tensor([-1e4, 1e4, 0, 0]).repeat_interleave(len(weight) // 4)  # gates i, f, g, o
    return torch.cat([xs, padding.unsqueeze(-1).to(xs)], -1), torch.cat([weight, saturate.unsqueeze(-1)], 1)


def _precision_of_lstm(device: torch.device) -> AbstractContextManager[object]:
    """Float32 where bfloat16 is asked for on a CPU whose units oneDNN has no LSTM in bfloat16 for."""
    narrow = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return torch.autocast("cpu", enabled=False) if narrow and not has_bf16_lstm() else nullcontext()


@functools.cache
def has_bf16_lstm() -> bool:
    """Whether oneDNN has an LSTM in bfloat16 for this CPU."""
    h, weights = torch.zeros(1, 1, 1), [torch.zeros(4, 1), torch.zeros(4, 1)]
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            torch.lstm(torch.zeros(1, 1, 1), (h, h), weights, False, 1, 0.0, False, False, False)
    except RuntimeError:
        return False
    return True
