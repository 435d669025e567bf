"""When each operation of a traced cell runs: at every step, for all steps at once, or backwards in time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, fx

from .code import Code, Writer
from .reverse import ReverseLoop
from .trace import Trace, is_statistic, operation


class Program(NamedTuple):
    """`gates` and its gradient arranged for a window; `fused.py` says what the homes are called."""

    bulk: Trace
    twin: dict[fx.Node, fx.Node]  # of the step trace -> of the bulk trace
    stored: list[fx.Node]  # of the bulk trace: what the forward loop keeps besides the carry
    forward: Code
    adds_z: int | None  # the forward loop reads z[i] + r, at home in "r", and neither of them by itself
    reverse: Code
    starts_dh: bool  # whether the reverse loop writes "next0"; else it is dy
    coefficients: list[fx.Node]  # of the bulk trace: what the reverse loop reads
    varying: set[fx.Node]  # the nodes of the bulk trace with a row for each step and column
    before: list[fx.Node]  # what to compute for all steps before the reverse loop, in order
    after: list[fx.Node]  # and after it
    after_kernels: list[fx.Node]  # the same where kernels do the loop: they leave the parameters' gradients only
    late: list[fx.Node | None]  # the gradients that come after it: of each tensor of z, then of each parameter


def compile(step: Trace, bulk: Trace) -> Program:
    """Arrange two traces of the same gates: one for the rows of a step, one for those of a window."""
    if step.dr is None:
        raise ValueError("they do not use r")
    if [operation(node) for node in step.nodes] != [operation(node) for node in bulk.nodes]:
        raise ValueError("they do other operations for another batch size")
    twin = dict(zip(step.nodes, bulk.nodes, strict=True))
    moved = _descendants(step.cotangents) | set(step.cotangents)
    in_loop = _ancestors([step.dr, *step.dcarry])
    late = [None if node is step.dr else node for node in (*step.dz, *step.dparameters.values())]
    gradients = [node for node in step.nodes if node in moved and node in in_loop | _ancestors(late)]
    needed = {source for node in gradients for source in node.all_input_nodes} - moved

    stored = _to_store(step, needed)
    forward, adds_z = _forward(step, stored)
    loop = ReverseLoop(step, twin, [node for node in gradients if node in in_loop])
    reverse = loop.code()

    known = [*step.z, *step.carry, *step.extras, *step.parameters.values(), *step.new_carry, *stored]
    have = {twin[node] for node in (*known, *step.cotangents)}
    late_twins = [None if node is None else twin[node] for node in late]
    order = list(bulk.nodes[0].graph.nodes)
    before = _to_compute(order, loop.coefficients, have)
    after = _to_compute(order, late_twins, have | set(before))
    after_kernels = _to_compute(order, late_twins[len(step.dz) :], have)
    constant = {twin[node] for node in step.parameters.values()}
    varying = _descendants(node for node in bulk.nodes if node.op == "placeholder" and node not in constant)
    varying |= have - constant
    return Program(
        bulk=bulk,
        twin=twin,
        stored=[twin[node] for node in stored],
        forward=forward,
        adds_z=adds_z,
        reverse=reverse,
        starts_dh=step.dcarry[0] is not None,
        coefficients=loop.coefficients,
        varying=varying,
        before=before,
        after=after,
        after_kernels=after_kernels,
        late=late_twins,
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
    """The nodes and all that they are computed from, not looking behind what is known."""
    found = {node for node in nodes if node is not None}
    todo, known = list(found), set(known)
    while todo:
        node = todo.pop()
        new = set() if node in known else set(node.all_input_nodes) - found
        found |= new
        todo += new
    return found


def _to_compute(order: list[fx.Node], wanted: Iterable[fx.Node | None], have: set[fx.Node]) -> list[fx.Node]:
    missing = _ancestors([node for node in wanted if node not in have], have) - have
    return [node for node in order if node in missing]


def _to_store(step: Trace, needed: set[fx.Node]) -> list[fx.Node]:
    """What the gradient needs and cannot be computed from the carries, which are kept anyway.

    That is the activated gates of an LSTM, nothing for an Elman cell, the pre-activations where they are normalised;
    and the mean and deviation of a normalisation, which are small, and a pass over the row each.
    """
    known = {*step.carry, *step.extras, *step.parameters.values(), *step.new_carry}
    known |= {node for node, gradient in zip(step.z, step.needs, strict=True) if not gradient}
    stored = []
    wanted = _ancestors(needed)
    for node in step.nodes:
        if node not in wanted or node in known:
            continue
        again = node.op == "call_function" and all(source in known for source in node.all_input_nodes)
        if again and not (node in needed and is_statistic(node)):
            known.add(node)
        elif node in needed and isinstance(node.meta["val"], Tensor):
            known.add(node)
            stored.append(node)
    return stored


def _forward(step: Trace, stored: list[fx.Node]) -> tuple[Code, int | None]:
    """The loop body of the forward pass: writes the new carry and what is stored."""
    homes = {node: f"z{i}" for i, node in enumerate(step.z)} | {step.r: "r"}
    homes |= {node: f"carry{i}" for i, node in enumerate(step.carry)}
    homes |= {node: f"extra{i}" for i, node in enumerate(step.extras)}
    homes |= {node: f"parameter{i}" for i, node in enumerate(step.parameters.values())}
    writer = Writer(homes)
    targets: dict[fx.Node, list[str]] = {}
    for i, node in enumerate(step.new_carry):
        targets.setdefault(node, []).append(f"new{i}")
    for i, node in enumerate(stored):
        targets.setdefault(node, []).append(f"stored{i}")
    wanted = _ancestors(targets)
    total, adds_z = _sum_of_z_and_r(step, wanted)
    if total is not None:
        writer.homes[total] = "r"
    for node in step.nodes:
        if node in wanted:
            writer.compute(node, targets.get(node, []), wanted, done=node is total)
    return writer.code("forward"), adds_z


def _sum_of_z_and_r(step: Trace, wanted: set[fx.Node]) -> tuple[fx.Node | None, int | None]:
    """The node z[i] + r, and i, if the forward pass reads z[i] and r nowhere else: then the product adds to z."""
    users = [node for node in step.r.users if node in wanted]
    if len(users) == 1 and operation(users[0]) == "add" and not users[0].kwargs:
        for i, z in enumerate(step.z):
            if {z, step.r} == set(users[0].args) and not any(user in wanted for user in set(z.users) - set(users)):
                return users[0], i
    return None, None
