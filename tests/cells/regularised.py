"""Cells as regularisers will make them: what the engines must serve besides the plain ones."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from seqlm import ElmanCell, GRUCell, LSTMCell
from seqlm.cells import GatedCell, Hidden, LayerNormLSTMCell, LSTMCarry


def drawn(shape, seed, p=0.5):
    """The same mask at every call, so that two engines can be compared."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) >= p).double() / (1 - p)


class WeightDrop(LSTMCell):
    """One mask on the recurrent weight for the whole chunk; the raw weight gets the gradient."""

    def recurrence(self, batch_size):
        given = super().recurrence(batch_size)
        return given._replace(weight=given.weight * drawn(given.weight.shape, 1).to(given.weight))


class StateDropout(GRUCell):
    """One mask for the chunk on the state that enters the recurrent product."""

    def recurrence(self, batch_size):
        given = super().recurrence(batch_size)
        return given._replace(mask=drawn((batch_size, self.hidden_size), 2).to(given.weight))


class MemoryMask(LSTMCell):
    """A mask of the chunk as an argument of gates."""

    def recurrence(self, batch_size):
        given = super().recurrence(batch_size)
        return given._replace(extras=(drawn((batch_size, self.hidden_size), 3).to(given.weight),))

    def gates(self, z, r, carry, mask):
        h, c = super().gates(z, r, carry)
        return LSTMCarry(h, c * mask)


class Zoneout(LSTMCell):
    """A mask for every step: units that keep their old state."""

    def project(self, xs):
        kept = drawn((*xs.shape[:-1], self.hidden_size), 4).to(xs) / 2
        return super().project(xs), kept

    def gates(self, z, r, carry):
        z, kept = z
        h, c = super().gates(z, r, carry)
        return LSTMCarry(kept * carry.h + (1 - kept) * h, kept * carry.c + (1 - kept) * c)


class Reset(GRUCell):
    """State set back to zero where a document begins: (T, B, 1), true or false."""

    def project(self, xs):
        begins = drawn((*xs.shape[:-1], 1), 5).to(xs.device) > 0
        return super().project(xs), begins

    def gates(self, z, r, carry):
        z, begins = z
        return super().gates(z, torch.where(begins, self.bias_hh, r), Hidden(torch.where(begins, 0.0, carry.h)))


class OddOperations(GatedCell):
    """Views, constants, clamps, divisions, exponentials, an unused state, a slice: what authors write."""

    num_gates = 2

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.scale = nn.Parameter(torch.ones(2, hidden_size))
        self.register_buffer("shift", torch.full((hidden_size,), 0.3))

    def init_carry(self, batch_size):
        zeros = self.weight_hh.new_zeros(batch_size, self.hidden_size)
        return LSTMCarry(zeros, zeros.clone())

    def gates(self, z, r, carry):
        size = self.hidden_size
        a, b = ((z * r).view(-1, 2, size) * self.scale + torch.ones_like(r).unflatten(-1, (2, size))).unbind(1)
        a = F.softplus(a).clamp(max=1.5) / (1.0 + carry.h.abs()) - b.exp().reciprocal().minimum(self.shift)
        gate = torch.where(a > 0.2, a, 0.5 * b) + r[:, size:]
        return LSTMCarry(0.5 * gate.tanh() - carry.h.neg() * 0.1, carry.h.pow(2) + 0.0 * carry.c)


class Shared(ElmanCell):
    """h + tanh(h): the new state is used twice, with and without a function."""

    def gates(self, z, r, carry):
        a = (z - r).tanh()
        return Hidden(a - carry.h * a + a * a)


ALL = (WeightDrop, StateDropout, MemoryMask, Zoneout, Reset, LayerNormLSTMCell, OddOperations, Shared)
