"""Where and how exactly to compute."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import torch

from .errors import ConfigError

M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # of malloc.h


def prepare(
    device: str, precision: str = "float32", threads: int | None = None, deterministic: bool = False
) -> torch.device:
    """Resolve `device` and set torch up for `precision`; raises ConfigError for what this machine cannot do."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device={device} is unknown; allowed: auto, cpu, cuda, cuda:1, ...") from None
    if resolved.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={device} is not supported; allowed: auto, cpu, cuda")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={device} is not there: torch sees {torch.cuda.device_count()} CUDA devices; use device=cpu"
        )
    if resolved.type == "cpu" and precision == "tf32":
        raise ConfigError(f"precision={precision} needs device=cuda; on the CPU use precision=float32 or bf16")
    if resolved.type == "cpu":
        keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    # cuDNN's recurrent kernels use TF32 unless told otherwise, matmuls the other way round: one key for both.
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    # For bfloat16 too: cuDNN puts it on slow FMA units where TF32 is forbidden.
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    return resolved


def keep_freed_memory() -> None:
    """Have GNU's C library keep memory that is freed, unless the user has told it what to do (MALLOC_...).

    It gives large blocks back to the system by default and asks for them again at the next step, which then finds them
    empty: a fault for every page, which took up to a fifth of a step. Peak memory grew by a tenth at most.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context for forward pass and loss: bfloat16 matmuls with float32 weights, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def describe(device: torch.device, precision: str) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    return f"cpu, {torch.get_num_threads()} threads, {precision}"


def hardware(device: torch.device) -> str:
    """Name of the GPU, or model of the CPU as far as the system tells, and its number of cores.

    Virtual machines call every generation of a processor by one name, so that its family and model stand beside it.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    facts = _cpuinfo()
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key} {facts[at]}" for key, at in (("family", "cpu family"), ("model", "model")) if at in facts]
    generation = f" ({', '.join(numbers)})" if numbers else ""
    return f"{name}{generation}, {os.cpu_count()} cores"


def processor() -> str:
    """The kind of processor, with its features: what compiled code and the speed of anything depend on."""
    facts = _cpuinfo()
    return platform.machine() + (facts.get("flags") or facts.get("Features") or platform.processor())


def _cpuinfo() -> dict[str, str]:
    """Facts about the first processor by name, as /proc/cpuinfo has them; none where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.strip().partition("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's generators that training draws from."""
    return {one.type: generator_state(one) for one in (torch.device("cpu"), device)}


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put torch's generators back to where they were."""
    for one in (torch.device("cpu"), device):
        if one.type in state:
            set_generator_state(state[one.type], one)


def generator_state(device: torch.device) -> torch.Tensor:
    """The state of the generator that draws on `device`."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_generator_state(state: torch.Tensor, device: torch.device) -> None:
    """Put it back to where it was."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
