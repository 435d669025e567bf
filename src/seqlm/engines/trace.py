"""The arithmetic of a cell's `gates` and of its gradient, as one graph of tensor operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx, nn

from ..cells import Carry, GatedCell, carry_tensors, map_carry

T = TypeVar("T")
_ZERO = ("zeros_like", "new_zeros", "zeros")


class Layout(NamedTuple):
    """What `gates` reads besides parameters: shapes of one step without the batch, and what needs a gradient."""

    z: tuple[tuple[torch.Size, torch.dtype, bool], ...]  # (shape, dtype, needs gradient) of each per-step input
    extras: tuple[tuple[torch.Size, torch.dtype], ...]
    state: torch.dtype


class Trace(NamedTuple):
    """new carry = gates(z, r, carry, *extras) and its vector-Jacobian product, in one graph.

    Lists are in the order of the tensors of z, of the carry and of the parameters. A gradient that
    is zero is None; dz has an entry for every tensor of z that needs a gradient.
    """

    nodes: list[fx.Node]
    z: list[fx.Node]
    needs: list[bool]  # which of them need a gradient
    r: fx.Node
    carry: list[fx.Node]
    extras: list[fx.Node]
    parameters: dict[str, fx.Node]  # parameters and buffers that gates reads
    cotangents: list[fx.Node]  # gradients of the new carry
    new_carry: list[fx.Node]
    dz: list[fx.Node | None]
    dr: fx.Node | None
    dcarry: list[fx.Node | None]
    dparameters: dict[str, fx.Node | None]  # of the same


class _Gates(nn.Module):
    def __init__(self, cell: GatedCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, z: Any, r: Tensor, carry: Carry, *extras: Tensor) -> Carry:
        return self.cell.transition(z, r, carry, *extras)


def trace(cell: GatedCell, layout: Layout, rows: int) -> Trace:
    """Trace `cell.gates` for a batch of `rows`, on tensors without storage. Raises what gates raises."""
    from torch.func import functional_call, functionalize, vjp
    from torch.fx.experimental.proxy_tensor import make_fx

    def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    module = _Gates(cell)
    buffers = {name: buffer.detach().to("meta") for name, buffer in module.named_buffers()}
    parameters = {name: parameter.detach().to("meta") for name, parameter in module.named_parameters()}
    z = [empty((rows, *shape), dtype) for shape, dtype, _ in layout.z]
    r = empty((rows, cell.num_gates * cell.hidden_size), layout.state)
    like = map_carry(lambda t: empty((rows, *t.shape[1:]), layout.state), cell.init_carry(1))
    carry = carry_tensors(like)
    extras = [empty((rows, *shape), dtype) for shape, dtype in layout.extras]
    counts = [len(z), 1, len(carry), len(extras), len(parameters), len(buffers), len(carry)]

    def joint(*tensors: Tensor) -> list[Any]:
        z, (r,), carry, extras, values, fixed, cotangents = cut(tensors, counts)
        moving = [part for part, (_, _, needed) in zip(z, layout.z, strict=True) if needed]

        def gates(moving: list[Tensor], r: Tensor, carry: list[Tensor], values: list[Tensor]) -> list[Tensor]:
            given, states = iter(moving), iter(carry)
            parts = [next(given) if needed else part for part, (_, _, needed) in zip(z, layout.z, strict=True)]
            weights = dict(zip([*parameters, *buffers], [*values, *fixed], strict=True))
            arguments = (_one_or_tuple(parts), r, map_carry(lambda _: next(states), like), *extras)
            return carry_tensors(functional_call(module, weights, arguments))

        new, pull = vjp(gates, moving, r, carry, values)  # type: ignore[misc]
        dz, dr, dcarry, dvalues = pull(cotangents)
        return [*new, *dz, dr, *dcarry, *dvalues]

    inputs = [*z, r, *carry, *extras, *parameters.values(), *buffers.values(), *carry]
    inputs = [tensor.clone() for tensor in inputs]  # no tensor twice: each is an input of its own
    graph = make_fx(joint)(*inputs).graph
    if any(getattr(getattr(node.target, "_schema", None), "is_mutable", False) for node in graph.nodes):
        graph = make_fx(functionalize(joint))(*inputs).graph  # slower: puts others for those that change a tensor
    _merge_equal(graph)
    graph.eliminate_dead_code()
    nodes = list(graph.nodes)
    for node in nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise ValueError("they draw random numbers; draw masks in recurrence() or project()")
        if node.op == "get_attr":
            raise ValueError("they use a tensor that is neither a parameter nor a buffer")
        if node.kwargs.get("device") is not None:  # tensors made inside gates: where the state is
            node.update_kwarg("device", cell.weight_hh.device)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    z_in, (r_in,), carry_in, extras_in, values_in, fixed_in, cotangents_in = cut(placeholders, counts)
    ends: Any = nodes[-1].args[0]
    results: list[Any] = [node if i < len(carry) else _unless_zero(node) for i, node in enumerate(ends)]
    differentiated = sum(needed for _, _, needed in layout.z)
    new, dz, (dr,), dcarry, dvalues = cut(results, [len(carry), differentiated, 1, len(carry), len(parameters)])
    # Names without the prefix of the module around the cell.
    named = [name.partition(".")[2] for name in (*parameters, *buffers)]
    values_in, dvalues = [*values_in, *fixed_in], [*dvalues, *(None for _ in buffers)]
    read = [any(operation(user) not in _ZERO for user in node.users) for node in values_in]  # not only to be zero of
    return Trace(
        nodes=nodes[:-1],
        z=z_in,
        needs=[needed for _, _, needed in layout.z],
        r=r_in,
        carry=carry_in,
        extras=extras_in,
        parameters={name: node for name, node, used in zip(named, values_in, read, strict=True) if used},
        cotangents=cotangents_in,
        new_carry=new,
        dz=dz,
        dr=dr,
        dcarry=dcarry,
        dparameters={name: node for name, node, used in zip(named, dvalues, read, strict=True) if used},
    )


def _one_or_tuple(parts: list[Tensor]) -> Any:
    return parts[0] if len(parts) == 1 else tuple(parts)


def cut(items: Sequence[T], counts: Sequence[int]) -> list[list[T]]:
    """Consecutive pieces of `items`, so many in each."""
    pieces: list[list[T]] = []
    at = 0
    for count in counts:
        pieces.append(list(items[at : at + count]))
        at += count
    return pieces


def _unless_zero(node: fx.Node) -> fx.Node | None:
    """The node, or None if it is known to be all zeros."""
    name = operation(node)
    zero = name in _ZERO or (name in ("full", "full_like") and node.args[1] == 0)
    return None if zero else node


def operation(node: fx.Node) -> str:
    """The name of a node's operation without its overload: "mul", "native_layer_norm", "getitem"."""
    target: Callable[..., Any] | str = node.target
    return str(getattr(getattr(target, "overloadpacket", target), "__name__", target))


def is_statistic(node: fx.Node) -> bool:
    """Whether it is the mean, or the reciprocal deviation, of a layer normalisation: a number for each row."""
    given: Any = node.args
    return operation(node) == "getitem" and operation(given[0]) == "native_layer_norm" and given[1] > 0


def _merge_equal(graph: fx.Graph) -> None:
    """Compute equal expressions once."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        key = (node.target, repr(node.args), repr(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node
