"""The two kernels of a gated cell: a step forwards, and its gradient.

gates -> trace -> program -> [kernels] -> lower -> passes -> compiled | triton_kernels -> kernel_body -> chunk
"""

from __future__ import annotations

from torch import fx

from .layer_norm import NormLowering
from .lower import count
from .passes import Array, Kernel, Language, Unsupported, units
from .trace import Trace, is_statistic


def input_arrays(trace: Trace, hidden_size: int) -> dict[fx.Node, Array]:
    """The arrays of everything that `gates` is given."""
    arrays: dict[fx.Node, Array] = {}
    rows, dtype = trace.r.meta["val"].shape[0], trace.r.meta["val"].dtype

    def add(node: fx.Node, name: str, batched: bool) -> None:
        value = node.meta["val"]
        shape = tuple(value.shape[1:] if batched else value.shape)
        if value.dtype != dtype:
            raise Unsupported(f"{name} is {value.dtype}, not {dtype}")
        if batched and len(value) != rows:
            raise Unsupported(f"{name} is not one row for each of the batch")
        if shape in ((), (1,)):
            arrays[node] = Array(name, "row" if batched else "one", 1, batched)
        elif len(shape) == 1 and shape[0] % hidden_size == 0:
            arrays[node] = Array(name, "units", shape[0] // hidden_size, batched)
        else:
            raise Unsupported(f"{name} has the shape {shape}")

    groups = {"z": trace.z, "carry": trace.carry, "extra": trace.extras, "d": trace.cotangents}
    for name, nodes in groups.items():
        for i, node in enumerate(nodes):
            add(node, f"{name}{i}", True)
    add(trace.r, "r", True)
    for i, node in enumerate(trace.parameters.values()):
        add(node, f"parameter{i}", False)
    return arrays


def forward_kernel(trace: Trace, stored: list[fx.Node], hidden_size: int, language: Language, biased: bool) -> Kernel:
    """z, r, carry -> the new carry ("new0", ...) and what is stored ("stored0", ...); adds "bias" to r if `biased`."""
    lowering = NormLowering(input_arrays(trace, hidden_size), hidden_size, language)
    if biased:
        scalars = lowering.value(trace.r)
        biases = lowering.load(Array("bias", "units", len(scalars), False))
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
    arrays = input_arrays(trace, hidden_size)
    for i, node in enumerate(stored):
        shape = ("row", 1) if is_statistic(node) else ("units", count(node, hidden_size))
        arrays[node] = Array(f"stored{i}", *shape, True)
    carried = {
        node: Array(f"new{i}", "units", count(node, hidden_size), True)
        for i, node in enumerate(trace.new_carry)
        if node not in arrays
    }
    lowering = NormLowering(arrays | carried, hidden_size, language)
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
            (dy,) = lowering.load(Array("dy", "units", 1, True))
            total = language.operations["add"](lowering.use(scalars[0]), lowering.use(dy))
            scalars = [lowering.let("all_of_h", total)]
        outputs.append((units(f"next{i}", scalars), scalars))
    if summing:
        for i, gradient in enumerate(trace.dparameters.values()):
            if gradient is not None:
                outputs.append(_added(lowering, f"sum{i}", lowering.summand(gradient)))
    return lowering.kernel(outputs)


def _added(lowering: NormLowering, name: str, scalars: list[str]) -> tuple[Array, list[str]]:
    """An output: what its array holds, and these."""
    array, add = Array(name, "sum", len(scalars), True), lowering.language.operations["add"]
    sums = [
        lowering.let(f"{one}_and", add(lowering.use(one), lowering.use(two)))
        for one, two in zip(lowering.load(array), scalars, strict=True)
    ]
    return array, sums
