"""Weights and gradients as norms and histograms, for those who ask: `train.log_parameters`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .loggers.run_logger import RunLogger


def log_parameters(model: nn.Module, logger: RunLogger, step: int, tokens: int, seconds: float) -> None:
    """Log norm and histogram of every weight, and of its gradient as the optimizer has seen it, after clipping.

    Tags: weight_norm/NAME and gradient_norm/NAME, weight/NAME and gradient/NAME.
    """
    norms: dict[str, float] = {}
    for kind, name, values in _tensors(model):
        flat = values.detach().float().flatten()
        norms[f"{kind}_norm/{name}"] = float(torch.linalg.vector_norm(flat))
        logger.histogram(f"{kind}/{name}", flat.cpu().numpy(), step, tokens)
    logger.scalars(step, tokens, seconds, norms)


def _tensors(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    for name, parameter in model.named_parameters():
        yield "weight", name, parameter
        if parameter.grad is not None:
            yield "gradient", name, parameter.grad
