"""The two kernels of a gated cell: a step forwards, and its gradient."""

from __future__ import annotations

from torch import fx

from .lower import Kernel, Language, Lowering, Unsupported, Value, count, units
from .trace import Trace, is_statistic


def placed(trace: Trace, hidden_size: int) -> dict[fx.Node, Value]:
    """The homes of everything that `gates` is given."""
    homes: dict[fx.Node, Value] = {}
    rows, dtype = trace.r.meta["val"].shape[0], trace.r.meta["val"].dtype

    def place(node: fx.Node, home: str, batched: bool) -> None:
        value = node.meta["val"]
        shape = tuple(value.shape[1:] if batched else value.shape)
        if value.dtype != dtype:
            raise Unsupported(f"{home} is {value.dtype}, not {dtype}")
        if batched and len(value) != rows:
            raise Unsupported(f"{home} is not one row for each of the batch")
        if shape in ((), (1,)):
            homes[node] = Value(home, "row" if batched else "one", 1, batched)
        elif len(shape) == 1 and shape[0] % hidden_size == 0:
            homes[node] = Value(home, "units", shape[0] // hidden_size, batched)
        else:
            raise Unsupported(f"{home} has the shape {shape}")

    groups = {"z": trace.z, "carry": trace.carry, "extra": trace.extras, "d": trace.cotangents}
    for name, nodes in groups.items():
        for i, node in enumerate(nodes):
            place(node, f"{name}{i}", True)
    place(trace.r, "r", True)
    for i, node in enumerate(trace.parameters.values()):
        place(node, f"parameter{i}", False)
    return homes


def forward_kernel(trace: Trace, stored: list[fx.Node], hidden_size: int, language: Language, biased: bool) -> Kernel:
    """z, r, carry -> the new carry ("new0", ...) and what is stored ("stored0", ...); adds "bias" to r if `biased`."""
    lowering = Lowering(placed(trace, hidden_size), hidden_size, language)
    if biased:
        scalars = lowering.value(trace.r)
        biases = lowering.load(Value("bias", "units", len(scalars), False))
        lowering.known[trace.r] = [
            lowering.let(f"biased_{j}", language.operations["add"](lowering.use(one), lowering.use(two)))
            for j, (one, two) in enumerate(zip(scalars, biases, strict=True))
        ]
    outputs = [lowering.store(f"new{i}", node) for i, node in enumerate(trace.new_carry)]
    outputs += [lowering.store(f"stored{i}", node) for i, node in enumerate(stored)]
    return lowering.kernel(outputs)


def reverse_kernel(trace: Trace, stored: list[fx.Node], hidden_size: int, language: Language, summing: bool) -> Kernel:
    """Gradients of the new carry ("d0", ...) and of the output before ("dy") -> "dr", "dz0", ..., "next0", ...

    What the forward pass stored is loaded, the rest of it computed again. "next0" holds all of the gradient of h but
    what comes through r. If `summing`, the parameters' gradients are added to "sum0", ..., to be summed over rows.
    """
    homes = placed(trace, hidden_size)
    for i, node in enumerate(stored):
        shape = ("row", 1) if is_statistic(node) else ("units", count(node, hidden_size))
        homes[node] = Value(f"stored{i}", *shape, True)
    carried = {
        node: Value(f"new{i}", "units", count(node, hidden_size), True)
        for i, node in enumerate(trace.new_carry)
        if node not in homes
    }
    lowering = Lowering(homes | carried, hidden_size, language)
    if trace.dr is None:
        raise Unsupported("r is not used")
    outputs = [lowering.store("dr", trace.dr)]
    for i, dz in enumerate(trace.dz):
        if dz is not None and dz is not trace.dr:
            outputs.append(lowering.store(f"dz{i}", dz))
    for i, earlier in enumerate(trace.dcarry):
        width = count(trace.carry[i], hidden_size)
        scalars = [language.number(0.0)] * width if earlier is None else lowering.store("", earlier)[1]
        if i == 0:
            (dy,) = lowering.load(Value("dy", "units", 1, True))
            total = language.operations["add"](lowering.use(scalars[0]), lowering.use(dy))
            scalars = [lowering.let("all_of_h", total)]
        outputs.append((units(f"next{i}", scalars), scalars))
    if summing:
        for i, gradient in enumerate(trace.dparameters.values()):
            if gradient is not None:
                outputs.append(_added(lowering, f"sum{i}", lowering.summand(gradient)))
    return lowering.kernel(outputs)


def _added(lowering: Lowering, home: str, scalars: list[str]) -> tuple[Value, list[str]]:
    """An output: what its home holds, and these."""
    place, add = Value(home, "sum", len(scalars), True), lowering.language.operations["add"]
    sums = [
        lowering.let(f"{one}_and", add(lowering.use(one), lowering.use(two)))
        for one, two in zip(lowering.load(place), scalars, strict=True)
    ]
    return place, sums
