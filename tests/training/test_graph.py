"""The step as a graph: what is done around the capture, with a stand-in for it; and the real one on a GPU."""

from __future__ import annotations

import pytest
import torch

from seqlm import LanguageModel, LSTMCell, Recurrent, Stack
from seqlm.cells import map_carry
from seqlm.data.batching.streams import Chunk
from seqlm.errors import ConfigError
from seqlm.training.gradient import GraphedGradient, cuda_capture, gradient
from seqlm.training.launch import train
from seqlm.training.loop import descend

from ..conftest import tiny


def recorder(parameters):
    """Captures that run the function again at every replay, and leave gradients where they were: a slow graph."""

    class Recorded:
        def __init__(self, function):
            self.function = function
            function()
            self.gradients = [parameter.grad for parameter in parameters]

        def replay(self):
            self.function()
            for parameter, place in zip(parameters, self.gradients, strict=True):
                place.copy_(parameter.grad)

    return Recorded


def chunks(device="cpu"):
    """Lengths that change, as random chunks do."""
    generator = torch.Generator().manual_seed(3)
    for length in (7, 7, 5, 7, 9, 5, 7, 4, 7, 7):
        tokens = torch.randint(11, (length + 1, 3), generator=generator).to(device)
        yield tokens[:-1].contiguous(), tokens[1:].contiguous()


def losses(make, device="cpu", dropout=0.0, l2=0.0):
    torch.manual_seed(0)
    stack = Stack([Recurrent(LSTMCell(8, 8)), Recurrent(LSTMCell(8, 8), engine="fused")])
    model = LanguageModel(11, stack, dropout={"input": dropout}, init_range=0.3).to(device)
    parameters, found = list(model.parameters()), []
    optimizer = torch.optim.SGD(parameters, lr=0.5)

    def objective(chunk, carry):
        return (*model.nll(chunk.inputs, chunk.targets, carry), None)

    step = make(objective, parameters)
    carry = model.init_carry(3)
    for inputs, targets in chunks(device):
        carry, nats = step(Chunk(inputs, targets, targets.numel()), carry, float(targets.numel()))
        descend(optimizer, parameters, 0.25, l2)
        found.append(nats.item())
    return found, map_carry(torch.clone, carry), step


def eager(objective, parameters):
    return lambda *chunk: gradient(objective, parameters, *chunk)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_replays_train_as_eager_steps_do(l2):
    expected, carry, _ = losses(eager, l2=l2)
    said = []
    found, last, step = losses(
        lambda objective, parameters: GraphedGradient(objective, parameters, recorder(parameters), said.append, most=3),
        l2=l2,
    )
    assert found == expected and not said
    assert all(torch.equal(a, b) for one, two in zip(carry, last, strict=True) for a, b in zip(one, two, strict=True))
    assert len(step.captured) == 3  # bounded: the length used longest ago is captured again when it comes back


def test_a_failed_capture_falls_back_and_says_why():
    said = []

    def fails(function):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    found, _, _ = losses(lambda *parts: GraphedGradient(*parts, fails, said.append))
    assert found == losses(eager)[0]
    assert said == [
        "engine=graph: the step cannot be captured (operation not permitted when stream is capturing); "
        "continuing without a graph"
    ]


def test_a_cpu_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="engine=graph needs device=cuda, this run is on cpu; use engine=auto"):
        train(tiny(tmp_path, "engine=graph", "device=cpu"), {})


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dropout", "l2"), [(0.0, 0.0), (0.5, 0.1)])
def test_cuda_graphs_train_as_eager_steps_do(dropout, l2):
    expected, *_ = losses(eager, "cuda", dropout, l2)
    said = []

    def make(*parts):
        return GraphedGradient(*parts, cuda_capture(torch.device("cuda")), said.append)

    found, *_ = losses(make, "cuda", dropout, l2)
    assert not said
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-3)
