"""Step functions written from a graph, as Python over torch's operations: views are no lines of their own.

    gates -> trace -> program -> reverse -> [code] -> torch_body -> chunk

Every tensor a step function touches is an argument of it, prepared once per chunk: views are taken outside the
loop, results are written into buffers that exist already. A tensor is made inside the loop only where torch has no
operation that writes into a buffer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from .trace import operation


class Block(NamedTuple):
    """A buffer: its shape without the rows, and its dtype."""

    shape: torch.Size
    dtype: torch.dtype


def block_of(node: fx.Node) -> Block:
    """The buffer of a node's value."""
    value = node.meta["val"]
    return Block(value.shape[1:], value.dtype)


class Slot(NamedTuple):
    """An argument of a step function: a buffer, by its name, or a view of it."""

    buffer: str
    views: tuple[fx.Node, ...] = ()  # applied one after the other
    columns: tuple[int, int] | None = None  # of the last dimension
    rows: int = 0  # n: the last dimension as n rows


class Code(NamedTuple):
    """A step function, the slots it is called with, and the buffers it needs for itself."""

    run: Callable[..., None]
    slots: list[Slot]
    scratch: list[Block]
    source: str


def is_view(node: fx.Node) -> bool:
    """Whether the result shares memory with the first argument, by the operation's own declaration."""
    if node.target is operator.getitem:
        return is_view(node.args[0])  # type: ignore[arg-type]
    schema: Any = getattr(node.target, "_schema", None)
    return bool(schema) and any(result.alias_info and not result.alias_info.is_write for result in schema.returns)


class Writer:
    """Writes one step function. `buffers` names the buffers that values lie in; a value without one is local."""

    def __init__(self, buffers: dict[fx.Node, str]) -> None:
        self.buffers = dict(buffers)
        self.local: dict[fx.Node, str] = {}
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}
        self.slots: dict[Slot, str] = {}
        self.scratch: list[Block] = []

    def slot(self, slot: Slot) -> str:
        """The name of the argument for this slot."""
        return self.slots.setdefault(slot, f"a{len(self.slots)}")

    def buffer(self, block: Block) -> str:
        """The name of a new buffer, the same one at every step."""
        self.scratch.append(block)
        return f"scratch{len(self.scratch) - 1}"

    def value(self, node: fx.Node) -> str:
        """An expression for the value of a node."""
        if node in self.local:
            return self.local[node]
        root: Any = node
        views: list[fx.Node] = []
        while root not in self.buffers and root not in self.local:
            if not is_view(root):
                raise ValueError(f"{root} was not computed")
            views.insert(0, root)
            root = root.args[0]
        if root in self.buffers:
            return self.slot(Slot(self.buffers[root], tuple(views)))
        for view in views:
            self.inline(view)
        return self.local[node]

    def inline(self, node: fx.Node) -> None:
        """Compute a node anew at every step."""
        self.lines.append(f"{node.name} = {self._call(node, node.target)}")
        self.local[node] = node.name

    def compute(self, node: fx.Node, targets: list[str], used: set[fx.Node], done: bool = False) -> None:
        """Compute a node into the buffers `targets`, or one of its own; `done` if it is in its buffer already.

        Only the `used` nodes are computed.
        """
        if node.op == "call_function" and not is_view(node) and not done:
            if self._joins_a_sum(node, targets, used):
                return
            function = _into(node)
            if function is None:
                self.inline(node)
            else:
                buffer, *targets = targets or [self.buffer(block_of(node))]
                self.buffers[node] = buffer
                self.lines.append(self._call(node, function, out=self.slot(Slot(buffer))))
        for buffer in targets:
            self.lines.append(f"{self.slot(Slot(buffer))}.copy_({self.value(node)})")

    def code(self, name: str) -> Code:
        body = "".join(f"    {line}\n" for line in self.lines or ["pass"])
        source = f"def {name}({', '.join(self.slots.values())}):\n{body}"
        exec(source, self.names)
        return Code(self.names[name], list(self.slots), self.scratch, source)

    def _joins_a_sum(self, node: fx.Node, targets: list[str], used: set[fx.Node]) -> bool:
        """Whether a product has one use, a sum: then the sum computes it, in one operation."""
        users = [user for user in node.users if user in used]
        return (
            operation(node) == "mul"
            and not targets
            and len(users) == 1
            and _adds_product(users[0]) is node
            and all(isinstance(factor, fx.Node) for factor in node.args)
        )

    def _call(self, node: fx.Node, function: Any, out: str = "") -> str:
        arguments = node.args
        product = _adds_product(node) if out else None
        if product is not None and product not in self.buffers and product not in self.local:
            other = arguments[0] if arguments[1] is product else arguments[1]
            function, arguments = torch.addcmul, (other, *product.args)
        words = [self._text(argument) for argument in arguments]
        words += [f"{key}={self._text(value)}" for key, value in node.kwargs.items()]
        words += [f"out={out}"] if out else []
        key = "f_" + str(getattr(function, "__name__", "")).replace(".", "_")
        while self.names.setdefault(key, function) is not function:
            key += "_"
        return f"{key}({', '.join(words)})"

    def _text(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self.value(value)
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(self._text, value)) + "]"
        if value is None or isinstance(value, (bool, int)):
            return repr(value)
        key = f"c{len(self.names)}"  # infinities, types and devices have no literal
        self.names[key] = value
        return key


def _adds_product(node: fx.Node) -> fx.Node | None:
    """The last product of two tensors that this sum adds, if it is a plain sum of two tensors of one shape."""
    if operation(node) != "add" or node.kwargs or not all(isinstance(a, fx.Node) for a in node.args):
        return None
    for argument in reversed(node.args):
        if operation(argument) == "mul" and len(argument.users) >= 1:  # type: ignore[arg-type,union-attr]
            return argument  # type: ignore[return-value]
    return None


def _into(node: fx.Node) -> Callable[..., Any] | None:
    """The operation in the form that writes its result into a buffer, if it is elementwise and has one."""
    target: Any = node.target
    if torch.Tag.pointwise not in getattr(target, "tags", ()) or not isinstance(node.meta["val"], Tensor):
        return None

    def like(node: fx.Node) -> Tensor:
        value = node.meta["val"]
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    arguments = fx.node.map_arg(node.args, like)
    # torch's own function first: there is less to dispatch than for the overload.
    for function in (getattr(torch, operation(node), None), getattr(target.overloadpacket, "out", None)):
        try:
            function(*arguments, **node.kwargs, out=like(node))  # type: ignore[misc]
            return function
        except (TypeError, RuntimeError):
            continue
    return None
