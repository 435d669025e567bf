"""What is told of the machine."""

from pathlib import Path

import pytest
import torch

from seqlm.device import hardware, processor

X86 = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: {family}\n"
    "model\t\t: 2\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2\n"
)
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n\nprocessor\t: 1\nFeatures\t: other\n"


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch):
    return lambda text: monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)


def test_two_generations_of_one_name_are_told_apart(cpuinfo) -> None:
    names = []
    for family in (25, 26):
        cpuinfo(X86.format(family=family) + "\n" + X86.format(family=1))
        names.append(hardware(torch.device("cpu")).rpartition(",")[0])
    assert names == ["AMD EPYC (family 25, model 2)", "AMD EPYC (family 26, model 2)"]


def test_features_are_those_of_the_first_processor(cpuinfo) -> None:
    cpuinfo(X86)
    assert processor().endswith("fpu avx2")
    cpuinfo(ARM)
    assert processor().endswith("fp asimd")


def test_a_system_that_tells_nothing_has_a_name_without_numbers(cpuinfo) -> None:
    cpuinfo("")
    assert " cores" in hardware(torch.device("cpu"))
    assert "family" not in hardware(torch.device("cpu"))
