"""The interface of a cell: one pure step of a recurrence, and the carry that travels through time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dropout import RecurrentDropout, keep_mask

# A Tensor, or a NamedTuple / tuple of carries. Stacks nest them; `map_carry` walks them.
Carry: TypeAlias = Any
Step: TypeAlias = Callable[[Carry, Tensor], tuple[Carry, Tensor]]


class Hidden(NamedTuple):
    """Carry of a cell whose only memory is its hidden layer: h (B, H)."""

    h: Tensor


def map_carry(function: Callable[[Tensor], Tensor], carry: Carry) -> Carry:
    """Apply `function` to every tensor of a carry, keeping its structure."""
    if isinstance(carry, Tensor):
        return function(carry)
    parts = [map_carry(function, part) for part in carry]
    return type(carry)(*parts) if hasattr(carry, "_fields") else tuple(parts)


def carry_tensors(carry: Carry) -> list[Tensor]:
    """The tensors of a carry in a fixed order: what a checkpoint stores."""
    if isinstance(carry, Tensor):
        return [carry]
    return [tensor for part in carry for tensor in carry_tensors(part)]


def padding_mask(steps: int, lengths: Tensor) -> Tensor:
    """True (T, B) where a sequence of `lengths` (B,) has ended."""
    return torch.arange(steps, device=lengths.device).unsqueeze(1) >= lengths


def state_after(lengths: Tensor, states: Tensor, start: Tensor) -> Tensor:
    """The state of each row after its last step: lengths (B,), states after every step (T, B, ...), start (B, ...)."""
    last = states[(lengths - 1).clamp(min=0), torch.arange(len(lengths), device=lengths.device)]
    return torch.where((lengths > 0).view(-1, *[1] * (start.dim() - 1)), last, start)


def detach(carry: Carry) -> Carry:
    """Cut the gradient here, keep the values: the boundary of truncated backpropagation."""
    return map_carry(Tensor.detach, carry)


def drop_state(carry: Carry, p: float) -> Carry:
    """Forget the state of each row of the batch with probability p: the model also learns to begin.

    carry <- carry * m,  m ~ Bernoulli(1 - p) for each row, the same for all of its tensors; nothing is scaled.
    G. Melis, C. Dyer and P. Blunsom, arXiv 1707.05589 (2017).
    """
    tensors = carry_tensors(carry)
    if p == 0 or not tensors:
        return carry
    kept = keep_mask((tensors[0].shape[0],), p, tensors[0])
    return map_carry(lambda t: torch.where(kept.view(-1, *[1] * (t.dim() - 1)), t, torch.zeros_like(t)), carry)


def require_positive(**sizes: int) -> None:
    """Raise ValueError, naming the argument, unless every size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1")


class Cell(nn.Module, ABC):
    """One time step of a recurrence: (carry_{t-1}, x_t) -> (carry_t, y_t).

    Pure: everything that changes over time is in the carry, nothing is stored on the module.
    Time-major: a sequence is (T, B, input_size), its outputs are (T, B, output_size).
    """

    input_size: int
    output_size: int  # declared, never guessed: a Jordan cell's output is not its hidden layer
    supports: Collection[str] = frozenset()  # fields of RecurrentDropout that it has; any other is refused
    block_names: tuple[str, ...] = ()  # of the blocks of `weight_hh`, in their order
    gate_names: tuple[str, ...] = ()  # of a step's sigmoids, in their order; "" for one that is no gate
    kept_by: str = ""  # the gate that the old state is multiplied by: forget, update, or 1-update
    dropout = RecurrentDropout()  # inside the recurrence; set by `regularise`

    @property
    def drops(self) -> RecurrentDropout:
        """The dropout that is in force: none in eval mode."""
        return self.dropout if self.training else RecurrentDropout()

    def extra_repr(self) -> str:
        """Sizes, parameters and dropout, for print(model)."""
        given = {name: p for name, p in self.dropout._asdict().items() if p != RecurrentDropout._field_defaults[name]}
        number = sum(parameter.numel() for parameter in self.parameters())
        shown = [f"{self.input_size} -> {self.output_size}", f"{number:,} parameters"]
        return ", ".join([*shown, *(f"dropout.{name}={p}" for name, p in given.items())])

    def regularise(self, dropout: RecurrentDropout) -> None:
        """Drop inside the recurrence from now on. Raises ValueError for a regulariser that the cell lacks."""
        for name, value in dropout._asdict().items():
            if value and name not in self.supports:
                supported = " and ".join(one for one in dropout._fields if one in self.supports) or "none"
                raise ValueError(
                    f"{name}={str(value).lower()} does nothing: of the recurrent regularisers "
                    f"{type(self).__name__} supports {supported}"
                )
        self.dropout = dropout.check()

    @abstractmethod
    def init_carry(self, batch_size: int) -> Carry:
        """The carry before the first step: zeros, on the parameters' device and dtype."""

    def project(self, xs: Tensor) -> Any:
        """All that does not depend on the carry, for any number of steps at once: (..., I) -> (..., G).

        A tensor, or a tuple of tensors with the same leading dimensions.
        """
        return xs

    def inputs(self, xs: Tensor, carry: Carry) -> Any:
        """The inputs of the steps of one chunk, in their order: `project`, with what is drawn for each step.

        Engines call this and no other method for the inputs. The carry is that before the first step.
        """
        return self.project(xs)

    def bind_inputs(self) -> Callable[[Tensor, Carry], Any]:
        """`inputs` for ONE chunk whose steps are read one by one: masks that a chunk has once are drawn here."""
        return self.inputs

    @abstractmethod
    def step(self, carry: Carry, z: Any) -> tuple[Carry, Tensor]:
        """One step. z: the projected input of this step (B, G). Returns (carry, y), y (B, output_size)."""

    def bind(self, carry: Carry) -> Step:
        """The step of ONE chunk; overridden to draw masks, or to prepare weights, once for it."""
        return self.step

    def reset_parameters(self, scale: float | None = None) -> None:
        """Draw every parameter from U(-scale, scale); scale = 1/sqrt(output_size), torch's choice, unless given."""
        if scale is None:
            scale = 1 / math.sqrt(self.output_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -scale, scale)


class Recurrence(NamedTuple):
    """Tensors that all steps of one chunk share: r_t = weight (mask * h_{t-1}) + bias, and the extras of `gates`."""

    weight: Tensor  # (G*H, H)
    bias: Tensor | None  # (G*H)
    mask: Tensor | None = None  # (B, H), or (G, B, H): one for the rows of weight that make each gate
    extras: tuple[Tensor, ...] = ()  # (B, ...) each, constant: no gradient flows into them


class GatedCell(Cell):
    """A cell that is an affine map followed by arithmetic on each row of the batch; authors write only `gates`.

    z_t = W_ih x_t + b_ih,  r_t = W_hh h_{t-1} + b_hh,  carry_t = gates(z_t, r_t, carry_{t-1}),  y_t = h_t

    The carry is a NamedTuple, `carry_type`, whose first field is `h` (B, H). Parameters bear torch's names and shapes,
    `num_gates` blocks stacked: weight_ih (G*H, I), weight_hh (G*H, H), bias_ih and bias_hh (G*H) or None.

    The regularisers of RecurrentDropout work without any code of the author. Two methods may be overridden for more:
    `recurrence` gives the tensors of one chunk (weights, a mask on h, further arguments of `gates`), and `project` may
    return a tuple of tensors (T, B, ...) instead of one, of which each step's reach `gates` as `z`. Engines call
    `inputs` and `transition`.
    """

    num_gates: int
    carry_type: type[Any] = Hidden  # all of its fields are (B, H)

    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__()
        require_positive(input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, hidden_size
        rows = self.num_gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(rows)) if bias else None
        self.bias_hh = nn.Parameter(torch.empty(rows)) if bias else None
        self.reset_parameters()

    def init_carry(self, batch_size: int) -> Carry:
        fields = self.carry_type._fields
        return self.carry_type(*(self.weight_hh.new_zeros(batch_size, self.hidden_size) for _ in fields))

    def project(self, xs: Tensor) -> Tensor:
        return masked_affine(self.weight_ih, self.bias_ih, self.drops.draw_input(xs, self.num_gates))(xs)

    @property
    def gated(self) -> bool:
        """Whether `step` and `bind` are those derived from `gates`: False in a cell that has its own."""
        return type(self).step is GatedCell.step and type(self).bind is GatedCell.bind

    @abstractmethod
    def gates(self, *inputs: Any, **_: Any) -> Carry:
        """gates(z, r, carry, *extras): projected input (B, G*H), recurrent projection (B, G*H), carry -> carry.

        The signature is the author's: the type of the carry, and the extras of `recurrence`. No row sees another.
        """

    @property
    def supports(self) -> Collection[str]:  # type: ignore[override]
        memory = {"zoneout_memory"} if len(self.init_carry(1)) > 1 else set()
        return frozenset({"weight", "state", "per_gate", "input", "zoneout"} | memory)

    def recurrence(self, batch_size: int) -> Recurrence:
        """The tensors of ONE chunk, with the masks of this chunk drawn."""
        weight, mask = self.drops.draw(self.weight_hh, batch_size, self.num_gates)
        return Recurrence(weight, self.bias_hh, mask)

    def inputs(self, xs: Tensor, carry: Carry) -> Any:
        z = self.project(xs)
        if not (self.training and self.dropout.zones):
            return z
        shape = (*xs.shape[:-1], self.hidden_size)
        kept = [keep_mask(shape, 1 - p, xs).to(xs.dtype) for p in self._zones(len(carry)) if p]
        return (*(z if isinstance(z, tuple) else (z,)), *kept)

    def transition(self, z: Any, r: Tensor, carry: Carry, *extras: Tensor) -> Carry:
        """`gates` and zoneout: the step that engines run."""
        return self._zoned(lambda z: self.gates(z, r, carry, *extras), z, carry)

    def _zoned(self, update: Callable[[Any], Carry], z: Any, carry: Carry) -> Carry:
        """The new carry, except for units that keep their value under zoneout; z is from `inputs`."""
        if not self.dropout.zones:
            return update(z)
        zones: list[Any] = self._zones(len(carry))
        if self.training:
            count = sum(p > 0 for p in zones)
            masks = iter(z[-count:])
            zones = [next(masks) if p else p for p in zones]
            z = z[:-count] if len(z) > count + 1 else z[0]
        fields = zip(zones, carry, update(z), strict=True)
        return type(carry)(*(old * m + new * (1 - m) for m, old, new in fields))

    def _zones(self, fields: int) -> list[float]:
        """The probability of keeping its value, for each tensor of the carry."""
        return [self.dropout.zoneout, *[self.dropout.zoneout_memory] * (fields - 1)]

    def bind(self, carry: Carry) -> Step:
        return self._bind_gates(carry) if type(self).step is GatedCell.step else self.step

    def _bind_gates(self, carry: Carry) -> Step:
        weight, bias, mask, extras = self.recurrence(carry.h.shape[0])
        affine = masked_affine(weight, bias, mask)

        def step(carry: Carry, z: Any) -> tuple[Carry, Tensor]:
            carry = self.transition(z, affine(carry.h), carry, *extras)
            return carry, carry.h

        return step

    def step(self, carry: Carry, z: Any) -> tuple[Carry, Tensor]:
        return self.bind(carry)(carry, z)


def masked_affine(weight: Tensor, bias: Tensor | None, mask: Tensor | None) -> Callable[[Tensor], Tensor]:
    """h (..., B, H) -> weight (mask * h) + bias, each gate's rows under its own mask if there are several."""
    if mask is None or mask.dim() == 2:
        return lambda h: F.linear(h if mask is None else h * mask, weight, bias)
    weights = weight.chunk(len(mask))
    biases = [None] * len(mask) if bias is None else bias.chunk(len(mask))
    return lambda h: torch.cat([F.linear(h * m, w, b) for m, w, b in zip(mask, weights, biases, strict=True)], -1)
