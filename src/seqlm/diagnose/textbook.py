"""The textbook's experiments: a gradient of ones sent back through time, where nothing has been trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cells import Cell, ElmanCell, LSTMCell
from .spectra import spectrum_of

SIZE, ROWS = 64, 32  # units, and sequences that norms are averaged over
LIMIT = 1.0  # of the norm of a gradient that is clipped
SCALES = (0.4, 0.7, 1.4)  # of W: its spectral radius, nearly; its largest singular value is nearly twice that
FORGET_BIASES = (0.0, 4.0)


@dataclass
class Sent:
    """A gradient of ones at the last state, and what is left of it at those before.

    Args:
        name: of the recurrence
        norm: mean over sequences of || d sum(state_T) / d state_{T-k} ||, for lags k = 0 .. T
        bound: (max |f'| sigma)^k times the norm at lag 0; None where W alone gives none
        sigma: the largest singular value of W
        radius: its spectral radius
    """

    name: str
    norm: list[float]
    bound: list[float] | None = None
    sigma: float | None = None
    radius: float | None = None

    @property
    def factor(self) -> float:
        """How many times as large the norm is a step earlier, as the geometric mean over all of them."""
        return float((self.norm[-1] / self.norm[0]) ** (1 / (len(self.norm) - 1)))

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {**vars(self), "factor": self.factor}


@dataclass
class Clipped:
    """The norm of the gradient of W after 1 .. T steps, before and after it was clipped; its direction is the same."""

    name: str
    before: list[float]
    after: list[float]

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return dict(vars(self))


def textbook(steps: int) -> dict[str, Any]:
    """Send a gradient of ones back through `steps` steps of cells with random weights, in float64.

    h_t = f(W h_{t-1} + x_t), W_ij ~ N(0, (scale / sqrt(H))^2), x_t ~ N(0, 1); for f the identity, all that happens to
    the gradient is W^T: dh_{t-1} = W^T dh_t, so that no component of it can shrink or grow by more than a singular
    value. A largest singular value under 1 is enough to make it vanish; one above 1 is needed to make it explode, and
    is not enough. With tanh it meets f' = 1 - h_t^2 <= 1 as well. In an LSTM, the memory c_t = f * c_{t-1} + i * g has
    a path that meets no matrix: only its forget gate.
    R. Pascanu et al., arXiv 1211.5063 (sections 2.1 and 3.2); S. Hochreiter and J. Schmidhuber, Neural Computation 9
    (1997).
    """
    draws = torch.Generator().manual_seed(1)
    weight = torch.randn(SIZE, SIZE, generator=draws, dtype=torch.float64) / SIZE**0.5
    inputs = torch.randn(steps, ROWS, SIZE, generator=draws, dtype=torch.float64)
    sent: list[Sent] = []
    for activation in ("identity", "tanh"):
        sent += [_through_elman(scale * weight, activation, scale, inputs) for scale in SCALES]
    sent += [_through_lstm(weight, bias, inputs) for bias in FORGET_BIASES]
    clipped = _clipped(SCALES[-1] * weight, inputs)
    return {"steps": steps, "hidden_size": SIZE, "sent": [one.record() for one in sent], "clipped": clipped.record()}


def _elman(weight: Tensor, activation: Any) -> ElmanCell:
    cell = ElmanCell(SIZE, SIZE, activation=activation, bias=False).double()
    with torch.no_grad():
        cell.weight_ih.copy_(torch.eye(SIZE))
        cell.weight_hh.copy_(weight)
    return cell


def _through_elman(weight: Tensor, activation: str, scale: float, inputs: Tensor) -> Sent:
    norm = _sent(_elman(weight, activation), inputs, lambda carry: carry.h)
    of_weight = spectrum_of(weight)
    name = f"W of {scale:g}, {'no f' if activation == 'identity' else activation}"
    bound = [norm[0] * of_weight.sigma**k for k in range(len(norm))]
    return Sent(name, norm, bound, of_weight.sigma, of_weight.radius)


def _through_lstm(weight: Tensor, forget_bias: float, inputs: Tensor) -> Sent:
    cell = LSTMCell(SIZE, SIZE, bias=True).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        for part in (cell.weight_ih, cell.weight_hh):
            part.copy_(SCALES[0] * torch.cat([weight.roll(block, 0) for block in range(4)]))
        cell.bias_ih[SIZE : 2 * SIZE] = forget_bias  # type: ignore[index]
    return Sent(f"memory of an LSTM, forget bias {forget_bias:g}", _sent(cell, inputs, lambda carry: carry.c))


def _sent(cell: Cell, inputs: Tensor, state_of: Callable[[Any], Tensor]) -> list[float]:
    """The mean norm of the gradient of the sum of the last state, by lag."""
    with torch.enable_grad():
        carry = cell.init_carry(ROWS)
        for part in carry:
            part.requires_grad_()
        step, states = cell.bind(carry), [state_of(carry)]
        for z in cell.inputs(inputs, carry):
            carry, _ = step(carry, z)
            states.append(state_of(carry))
        found = torch.autograd.grad(states[-1].sum(), states)
    return [float(one.norm(dim=1).mean()) for one in reversed(found)]


def _clipped(weight: Tensor, inputs: Tensor) -> Clipped:
    before, after = [], []
    for steps in range(1, len(inputs) + 1):
        cell = _elman(weight, "identity")
        with torch.enable_grad():
            carry = cell.init_carry(1)
            for z in cell.inputs(inputs[:steps, :1], carry):
                carry, y = cell.step(carry, z)
            y.sum().backward()
        before.append(float(torch.nn.utils.clip_grad_norm_([cell.weight_hh], LIMIT)))
        assert cell.weight_hh.grad is not None
        after.append(float(cell.weight_hh.grad.norm()))
    return Clipped(f"W of {SCALES[-1]:g}", before, after)


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """A line for each recurrence, for people."""
    shown = [("a gradient of ones", f"through {found['steps']} steps of {found['hidden_size']} units, nothing trained")]
    for one in found["sent"]:
        verb = "shrinks" if one["factor"] < 1 else "grows"
        text = f"{verb} by {one['factor']:.3g} a step, to {one['norm'][-1] / one['norm'][0]:.1e} of its start"
        if one["sigma"] is not None:
            text += f"; singular value {one['sigma']:.3g}, spectral radius {one['radius']:.2g}"
        shown.append((one["name"], text))
    clipped = found["clipped"]
    text = f"the gradient of W has norm {clipped['before'][-1]:.1e}, and {clipped['after'][-1]:.3g} after clipping"
    return [*shown, (f"{clipped['name']}, no f", text)]
