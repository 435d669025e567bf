"""seqlm doctor: whether this machine is fit to train on, from its versions to a step on each engine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import __version__
from ..cache.private import cache_folder, private_folder
from ..errors import ConfigError, SeqlmError, upgrade_hint
from ..files import MB, beside, create, to_json
from ..terminal import labelled, status
from .words import pop_flag

OK, NOTE, BAD = "ok", "note", "bad"  # as it should be; works, but slower or with less; does not work
PACKAGES = ("torch", "numpy", "hydra-core", "omegaconf", "safetensors", "tensorboard", "tqdm", "PyYAML")
UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")  # of processors, as Linux calls them
OPENMP = re.compile(r"lib(gomp|iomp5|omp)[^/]*\.so")
LEAST_FREE, SCARCE = 100 * MB, 2048 * MB  # bytes of a disk
TOLERANCE = 1e-5  # of weights after a step, beside those of scan


class Finding(NamedTuple):
    """A thing that was looked at: what was found, how it stands, and what to do where that is not OK."""

    name: str
    found: str
    state: str = OK
    advice: str = ""


def main(words: Sequence[str]) -> None:
    """`seqlm doctor [--json]`. Raises SeqlmError if something does not work."""
    words, as_json = pop_flag(words, "--json")
    if words:
        raise ConfigError(f"seqlm doctor takes --json and nothing else, not {words[0]}")
    with status("loading torch"):
        found = [finding for check in (versions, processor, torch_build, compiler, cache, disk) for finding in check()]
    with status("training a step on each engine"):
        found += [*engines()]
    if as_json:
        print(to_json([one._asdict() for one in found], indent=1))
    else:
        print(labelled([(one.name, _shown(one)) for one in found], sys.stdout))
    if bad := [one.name for one in found if one.state == BAD]:
        raise SeqlmError(f"{len(bad)} of {len(found)} are not as they should be: {', '.join(bad)}")


def _shown(one: Finding) -> str:
    return one.found + (f"   {one.state}: {one.advice}" if one.state != OK else "")


def versions() -> Iterator[Finding]:
    """Those of Python and of what seqlm needs, beside the least ones that it declares."""
    yield Finding("seqlm", __version__)
    yield Finding("python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    try:
        needed = importlib.metadata.requires("seqlm") or []
    except importlib.metadata.PackageNotFoundError:  # from a checkout that is not installed
        needed = []
    least = {found[1].lower(): found[2] for one in needed if (found := re.match(r"([\w-]+)>=([\d.]+)", one))}
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "missing", BAD, upgrade_hint(name))
            continue
        wanted = least.get(name.lower(), "0")
        old = _numbers(version) < _numbers(wanted)
        yield Finding(name, version, BAD if old else OK, f"seqlm needs {wanted} at least: {upgrade_hint(name)}" * old)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]


def processor() -> Iterator[Finding]:
    """The CPU with its units for vectors and bfloat16, and its threads."""
    import torch

    from ..device import hardware
    from ..device import processor as features

    units = [unit for unit in UNITS if unit in features().split()]
    yield Finding("cpu", f"{hardware(torch.device('cpu'))}, {' '.join(units) or 'no vector units that are known'}")
    exact = {"avx512_bf16", "amx_bf16", "bf16"} & {*units}
    advice = "precision=bf16 is no faster than float32 here"
    yield Finding("bf16", f"units {', '.join(sorted(exact)) or 'none'}", OK if exact else NOTE, advice)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    advice = f"more threads than cores are slow: threads={cores}, or OMP_NUM_THREADS={cores}"
    yield Finding("threads", f"{threads} on {cores} cores", NOTE if threads > cores else OK, advice)
    kinds = sorted(_openmp())
    advice = "two kinds of OpenMP in one process slow each other down, and may hang: keep to one source of packages"
    yield Finding("openmp", ", ".join(kinds) or "none is loaded", NOTE if len(kinds) > 1 else OK, advice)


def _openmp() -> set[str]:
    """The kinds of OpenMP that this process has loaded."""
    maps = Path("/proc/self/maps")
    text = maps.read_text(encoding="utf-8", errors="replace") if maps.is_file() else ""
    return set(OPENMP.findall(text))


def torch_build() -> Iterator[Finding]:
    """Whether torch works with numpy, and is made for the GPU that is there."""
    import numpy as np
    import torch

    try:
        torch.from_numpy(np.zeros(1)).numpy()
        yield Finding("torch and numpy", "share arrays")
    except Exception as error:  # whatever an unfit pair of builds raises
        advice = f"they were built for other versions of each other: {upgrade_hint('torch', 'numpy')}"
        yield Finding("torch and numpy", f"{type(error).__name__}: {error}", BAD, advice)
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    has_gpu = Path("/dev/nvidia0").exists()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            yield Finding(f"cuda:{index}", f"{facts.name}, {facts.total_memory / 1024 / MB:.0f} GB, {built}")
    elif has_gpu and torch.version.cuda:
        yield Finding("cuda", f"{built}, no GPU can be used", BAD, "the driver is too old or not loaded: nvidia-smi")
    elif has_gpu:
        yield Finding("cuda", built, NOTE, "this machine has an NVIDIA GPU, but this torch cannot use it: pytorch.org")
    else:
        yield Finding("cuda", f"no GPU; torch is {built}")


def compiler() -> Iterator[Finding]:
    """The C compiler that makes the kernels of engine=fused."""
    from ..engines import compiled

    if os.environ.get("SEQLM_KERNELS") == "0":
        yield Finding("compiler", "not used", NOTE, "SEQLM_KERNELS=0 keeps kernels out: cells run step by step")
    elif program := compiled.compiler():
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        yield Finding("compiler", f"{program}: {[*told.splitlines(), 'no version'][0]}")
    else:
        yield Finding(
            "compiler", "none was found", NOTE, "cells run without kernels, several times slower: install gcc"
        )


def cache() -> Iterator[Finding]:
    """The folder of encoded texts, kernels and downloads: whether it can be written, and by nobody else."""
    try:
        meant, folder = cache_folder(), private_folder()
        probe = beside(folder / "doctor")
        create(probe).close()
        probe.unlink()
    except (OSError, RuntimeError) as error:
        yield Finding("cache", str(error), BAD, "set SEQLM_CACHE to a folder of your own")
        return
    advice = f"{meant} is not yours alone, so this is used: chmod go-w it, or set SEQLM_CACHE to a folder of your own"
    yield Finding(
        "cache", f"{folder}, mode {folder.stat().st_mode & 0o777:04o}", OK if folder == meant else NOTE, advice
    )


def disk() -> Iterator[Finding]:
    """Free space where runs and the cache are written."""
    for name, folder in (("disk here", Path.cwd()), ("disk of the cache", private_folder())):
        free = shutil.disk_usage(folder).free
        state = BAD if free < LEAST_FREE else NOTE if free < SCARCE else OK
        yield Finding(
            name, f"{free / 1024 / MB:.1f} GB free", state, f"little is left in {folder}; a run needs some GB"
        )


def engines() -> Iterator[Finding]:
    """A training step of an LSTM on each engine, and on the GPU: finite, and the weights that scan gives."""
    import torch

    from ..cells import LSTMCell
    from ..engines import ENGINES

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cell, xs = LSTMCell(8, 8), torch.randn(12, 4, 8)
    places = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    expected = _stepped(cell, xs, "scan", "cpu")
    for device in places:
        for name, engine in ENGINES.items():
            title = f"engine {name}" + f" on {device}" * (device != "cpu")
            if reason := engine.refusal(cell.to(device)):
                yield Finding(title, "is not for this machine", NOTE, str(reason))
                continue
            yield _compared(title, expected, lambda name=name, device=device: _stepped(cell, xs, name, device))  # type: ignore[misc]


def _compared(title: str, expected: Sequence[float], step: Callable[[], list[float]]) -> Finding:
    try:
        found = step()
    except Exception as error:  # whatever a broken installation raises
        return Finding(title, f"{type(error).__name__}: {error}", BAD, "choose another: engine=scan")
    off = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    right = off <= TOLERANCE  # false for NaN
    return Finding(
        title, f"a step as scan's, to {off:.0e}", OK if right else BAD, "it computes something else: engine=scan"
    )


def _stepped(cell: object, xs: object, engine: str, device: str) -> list[float]:
    """The weights of a cell after one step of gradient descent."""
    import copy
    from typing import Any, cast

    import torch

    from ..layers import Recurrent

    layer = Recurrent(copy.deepcopy(cast("Any", cell)), False, cast("Any", engine)).to(device)
    inputs = cast("torch.Tensor", xs).to(device)
    _, ys = layer(inputs, layer.init_carry(inputs.shape[1]))
    ys.square().mean().backward()
    with torch.no_grad():
        weights = [(one - 0.1 * one.grad).flatten() for one in layer.parameters() if one.grad is not None]
    return cast("list[float]", torch.cat(weights).tolist())
