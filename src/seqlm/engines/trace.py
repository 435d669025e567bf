"""The arithmetic of a cell's `gates` and of its gradient, as one graph of tensor operations.

gates -> [trace] -> program -> reverse | kernels -> torch_body | kernel_body -> chunk
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx, nn

from ..cells import Carry, GatedCell, carry_tensors, map_carry

T = TypeVar("T")
_ZERO = ("zeros_like", "new_zeros", "zeros")


class Layout(NamedTuple):
    """The inputs of `gates` besides parameters: shapes of one step without the batch."""

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


def trace(cell: GatedCell, layout: Layout, rows: int) -> Trace:
    """Trace `cell.gates` for a batch of `rows`, on tensors without storage. Raises the exceptions of gates."""
    module = _Gates(_on_meta(cell))
    carry = map_carry(lambda t: _empty((rows, *t.shape[1:]), layout.state), cell.init_carry(1))
    groups = [
        [_empty((rows, *shape), dtype) for shape, dtype, _ in layout.z],
        [_empty((rows, cell.num_gates * cell.hidden_size), layout.state)],
        carry_tensors(carry),
        [_empty((rows, *shape), dtype) for shape, dtype in layout.extras],
        [parameter.detach() for parameter in module.parameters()],
        list(module.buffers()),
        carry_tensors(carry),  # the cotangents
    ]
    graph = _joint_graph(module, groups, [needed for _, _, needed in layout.z], carry)
    for node in graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise ValueError("they draw random numbers; draw masks in recurrence() or project()")
        if node.op == "get_attr":
            raise ValueError("they use a tensor that is neither a parameter nor a buffer")
        if node.kwargs.get("device") is not None:  # tensors made inside gates: where the state is
            node.update_kwarg("device", cell.weight_hh.device)
    names = [name for name, _ in (*cell.named_parameters(), *cell.named_buffers())]
    return _read(list(graph.nodes), [len(group) for group in groups], [needed for _, _, needed in layout.z], names)


class _Gates(nn.Module):
    def __init__(self, cell: GatedCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, z: Any, r: Tensor, carry: Carry, *extras: Tensor) -> Carry:
        return self.cell.transition(z, r, carry, *extras)


def _on_meta(cell: GatedCell) -> GatedCell:
    """A copy whose parameters and buffers have no storage: the cell itself may be at work in another thread."""
    memo: dict[int, Any] = {id(buffer): torch.empty_like(buffer, device="meta") for buffer in cell.buffers()}
    for parameter in cell.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    return copy.deepcopy(cell, memo)


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _joint_graph(module: nn.Module, groups: list[list[Tensor]], needs: list[bool], like: Carry) -> fx.Graph:
    """The graph of gates and of their vector-Jacobian product, on inputs in groups as in `trace`."""
    from torch.func import functional_call, functionalize, vjp
    from torch.fx.experimental.proxy_tensor import make_fx

    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]

    def joint(*tensors: Tensor) -> list[Any]:
        z, (r,), carry, extras, values, fixed, cotangents = cut(tensors, list(map(len, groups)))
        moving = [part for part, needed in zip(z, needs, strict=True) if needed]

        def gates(moving: list[Tensor], r: Tensor, carry: list[Tensor], values: list[Tensor]) -> list[Tensor]:
            given, states = iter(moving), iter(carry)
            parts = [next(given) if needed else part for part, needed in zip(z, needs, strict=True)]
            weights = dict(zip(names, [*values, *fixed], strict=True))
            arguments = (_one_or_tuple(parts), r, map_carry(lambda _: next(states), like), *extras)
            return carry_tensors(functional_call(module, weights, arguments))

        new, pull = vjp(gates, moving, r, carry, values)  # type: ignore[misc]
        dz, dr, dcarry, dvalues = pull(cotangents)
        return [*new, *dz, dr, *dcarry, *dvalues]

    inputs = [tensor.clone() for group in groups for tensor in group]  # no tensor twice: each is an input of its own
    graph = make_fx(joint)(*inputs).graph
    if any(getattr(getattr(node.target, "_schema", None), "is_mutable", False) for node in graph.nodes):
        graph = make_fx(functionalize(joint))(*inputs).graph  # slower: puts others for those that change a tensor
    _merge_equal(graph)
    graph.eliminate_dead_code()
    return graph


def _read(nodes: list[fx.Node], counts: list[int], needs: list[bool], names: list[str]) -> Trace:
    """Name the inputs and outputs of a joint graph; `names` are those of parameters and buffers."""
    placeholders = [node for node in nodes if node.op == "placeholder"]
    z, (r,), carry, extras, values, fixed, cotangents = cut(placeholders, counts)
    ends: Any = nodes[-1].args[0]
    results: list[Any] = [node if i < len(carry) else _unless_zero(node) for i, node in enumerate(ends)]
    new, dz, (dr,), dcarry, dvalues = cut(results, [len(carry), sum(needs), 1, len(carry), len(values)])
    values, dvalues = [*values, *fixed], [*dvalues, *(None for _ in fixed)]
    read = [any(operation(user) not in _ZERO for user in node.users) for node in values]  # not only to be zero of
    return Trace(
        nodes=nodes[:-1],
        z=z,
        needs=needs,
        r=r,
        carry=carry,
        extras=extras,
        parameters={name: node for name, node, used in zip(names, values, read, strict=True) if used},
        cotangents=cotangents,
        new_carry=new,
        dz=dz,
        dr=dr,
        dcarry=dcarry,
        dparameters={name: node for name, node, used in zip(names, dvalues, read, strict=True) if used},
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
