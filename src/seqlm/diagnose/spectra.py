"""The recurrent matrices of a model: how much each step in time may stretch or shrink a state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.stack import cells_of


@dataclass
class Spectrum:
    """Of a square matrix W (H, H), by which a state is multiplied at each step.

    Args:
        layer: number of the layer, from 0
        name: of the weight, and of the block where there are several: its number if the cell has no `block_names`
        singular: its singular values, the largest first: the most and the least that it stretches a vector
        radius: the largest absolute value of an eigenvalue: how it stretches a vector in the long run
        orthogonality: || W^T W - I ||_F / sqrt(H), 0 if it turns a vector and does not change its length
    """

    layer: int
    name: str
    singular: list[float]
    radius: float
    orthogonality: float

    @property
    def sigma(self) -> float:
        """The largest singular value."""
        return self.singular[0]

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return dict(vars(self))


def spectra(model: nn.Module) -> list[Spectrum]:
    """Of every block of `weight_hh` of every cell; none of a cell whose state meets no matrix."""
    found = []
    for layer, cell in enumerate(cells_of(model)):
        weight = getattr(cell, "weight_hh", None)
        if not isinstance(weight, Tensor) or weight.dim() != 2 or weight.shape[0] % weight.shape[1]:
            continue
        blocks = weight.detach().double().cpu().split(weight.shape[1])
        names = cell.block_names if len(cell.block_names) == len(blocks) else range(len(blocks))
        for name, block in zip(names, blocks, strict=True):
            found.append(spectrum_of(block, layer, "weight_hh" if len(blocks) == 1 else f"weight_hh[{name}]"))
    return found


def spectrum_of(matrix: Tensor, layer: int = 0, name: str = "weight_hh") -> Spectrum:
    """Of one matrix (H, H), in float64."""
    size = len(matrix)
    singular = torch.linalg.svdvals(matrix).tolist()
    radius = float(torch.linalg.eigvals(matrix).abs().max())
    apart = float(torch.linalg.matrix_norm(matrix.T @ matrix - torch.eye(size, dtype=matrix.dtype)) / size**0.5)
    return Spectrum(layer, name, singular, radius, apart)
