"""The loop bodies of a traced cell: which operation runs at every step, for all steps at once, or backwards in time.

gates -> trace -> [program] -> reverse -> code ----------------------------------> torch_body --+-> chunk
                           +-> kernels -> lower -> passes -> compiled | triton --> kernel_body -+
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, fx

from .code import Code, Writer
from .reverse import ReverseLoop
from .trace import Trace, is_statistic, operation


class Program(NamedTuple):
    """`gates` and its gradient arranged for a chunk.

    Buffers are named z0, carry0, extra0, parameter0, r (inputs of gates), new0 (the new carry), stored0; and backwards
    d0 (gradients of the new carry), dy, dr, next0 (gradients of the carry before), k0 (coefficients).
    """

    bulk: Trace
    bulk_of: dict[fx.Node, fx.Node]  # a node of the step trace -> of the bulk trace
    stored: list[fx.Node]  # of the bulk trace: kept by the forward loop besides the carry
    forward: Code
    adds_z: int | None  # the forward loop reads z[i] + r, in buffer "r", and neither of them by itself
    reverse: Code
    starts_dh: bool  # whether the reverse loop writes "next0"; else it is dy
    coefficients: list[fx.Node]  # of the bulk trace: read by the reverse loop
    varying: set[fx.Node]  # the nodes of the bulk trace with a row for each step and row of the batch
    before: list[fx.Node]  # to be computed for all steps before the reverse loop, in order
    after: list[fx.Node]  # and after it
    after_kernels: list[fx.Node]  # the same where kernels do the loop: they leave the parameters' gradients only
    late: list[fx.Node | None]  # the gradients that come after it: of each tensor of z, then of each parameter


def compile(step: Trace, bulk: Trace) -> Program:
    """Arrange two traces of the same gates: one for the rows of a step, one for those of a chunk."""
    if step.dr is None:
        raise ValueError("they do not use r")
    if [operation(node) for node in step.nodes] != [operation(node) for node in bulk.nodes]:
        raise ValueError("they do other operations for another batch size")
    bulk_of = dict(zip(step.nodes, bulk.nodes, strict=True))
    downstream = _descendants(step.cotangents) | set(step.cotangents)
    in_loop = _ancestors([step.dr, *step.dcarry])
    late = [None if node is step.dr else node for node in (*step.dz, *step.dparameters.values())]
    gradients = [node for node in step.nodes if node in downstream and node in in_loop | _ancestors(late)]
    needed = {source for node in gradients for source in node.all_input_nodes} - downstream

    stored = _to_store(step, needed)
    forward, adds_z = _forward(step, stored)
    loop = ReverseLoop(step, bulk_of, [node for node in gradients if node in in_loop])
    reverse = loop.code()

    known = [*step.z, *step.carry, *step.extras, *step.parameters.values(), *step.new_carry, *stored]
    have = {bulk_of[node] for node in (*known, *step.cotangents)}
    bulk_late = [None if node is None else bulk_of[node] for node in late]
    order = list(bulk.nodes[0].graph.nodes)
    before = _to_compute(order, loop.coefficients.read, have)
    after = _to_compute(order, bulk_late, have | set(before))
    after_kernels = _to_compute(order, bulk_late[len(step.dz) :], have)
    constant = {bulk_of[node] for node in step.parameters.values()}
    varying = _descendants(node for node in bulk.nodes if node.op == "placeholder" and node not in constant)
    varying |= have - constant
    return Program(
        bulk=bulk,
        bulk_of=bulk_of,
        stored=[bulk_of[node] for node in stored],
        forward=forward,
        adds_z=adds_z,
        reverse=reverse,
        starts_dh=step.dcarry[0] is not None,
        coefficients=loop.coefficients.read,
        varying=varying,
        before=before,
        after=after,
        after_kernels=after_kernels,
        late=bulk_late,
    )


def _descendants(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    todo = list(nodes)
    while todo:
        new = {user for user in todo.pop().users if user.op != "output"} - found
        found |= new
        todo += new
    return found


def _ancestors(nodes: Iterable[fx.Node | None], known: Iterable[fx.Node] = ()) -> set[fx.Node]:
    """The nodes and all that they are computed from, not searched further than `known`."""
    found = {node for node in nodes if node is not None}
    todo, known = list(found), set(known)
    while todo:
        node = todo.pop()
        new = set() if node in known else set(node.all_input_nodes) - found
        found |= new
        todo += new
    return found


def _to_compute(order: list[fx.Node], used: Iterable[fx.Node | None], have: set[fx.Node]) -> list[fx.Node]:
    missing = _ancestors([node for node in used if node not in have], have) - have
    return [node for node in order if node in missing]


def _to_store(step: Trace, needed: set[fx.Node]) -> list[fx.Node]:
    """The nodes that the gradient needs and that cannot be computed from the carries, which are kept anyway.

    These are the activated gates of an LSTM, nothing for an Elman cell, the pre-activations where they are normalised;
    and the mean and deviation of a normalisation, which are small, and a pass over the row each.
    """
    known = {*step.carry, *step.extras, *step.parameters.values(), *step.new_carry}
    known |= {node for node, gradient in zip(step.z, step.needs, strict=True) if not gradient}
    stored = []
    used = _ancestors(needed)
    for node in step.nodes:
        if node not in used or node in known:
            continue
        again = node.op == "call_function" and all(source in known for source in node.all_input_nodes)
        if again and not (node in needed and is_statistic(node)):
            known.add(node)
        elif node in needed and isinstance(node.meta["val"], Tensor):
            known.add(node)
            stored.append(node)
    return stored


def _forward(step: Trace, stored: list[fx.Node]) -> tuple[Code, int | None]:
    """The loop body of the forward pass: writes the new carry and the nodes that are stored."""
    buffers = {node: f"z{i}" for i, node in enumerate(step.z)} | {step.r: "r"}
    buffers |= {node: f"carry{i}" for i, node in enumerate(step.carry)}
    buffers |= {node: f"extra{i}" for i, node in enumerate(step.extras)}
    buffers |= {node: f"parameter{i}" for i, node in enumerate(step.parameters.values())}
    writer = Writer(buffers)
    targets: dict[fx.Node, list[str]] = {}
    for i, node in enumerate(step.new_carry):
        targets.setdefault(node, []).append(f"new{i}")
    for i, node in enumerate(stored):
        targets.setdefault(node, []).append(f"stored{i}")
    used = _ancestors(targets)
    total, adds_z = _sum_of_z_and_r(step, used)
    if total is not None:
        writer.buffers[total] = "r"
    for node in step.nodes:
        if node in used:
            writer.compute(node, targets.get(node, []), used, done=node is total)
    return writer.code("forward"), adds_z


def _sum_of_z_and_r(step: Trace, used: set[fx.Node]) -> tuple[fx.Node | None, int | None]:
    """The node z[i] + r, and i, if the forward pass reads z[i] and r nowhere else: then the product adds to z."""
    users = [node for node in step.r.users if node in used]
    if len(users) == 1 and operation(users[0]) == "add" and not users[0].kwargs:
        for i, z in enumerate(step.z):
            if {z, step.r} == set(users[0].args) and not any(user in used for user in set(z.users) - set(users)):
                return users[0], i
    return None, None
