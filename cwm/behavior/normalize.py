"""Normalisation by a running magnitude; reference `StreamNorm` in `core/other.py`."""

import torch
from torch import Tensor, nn


class RunningMagnitude(nn.Module):
    """x / (m + 1e-8), where m <- momentum m + (1 - momentum) mean|x|, starting at 1."""

    magnitude: Tensor  # () float64

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("magnitude", torch.ones((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Update the running magnitude by mean|x|."""
        mean = x.abs().mean().to(self.magnitude.dtype)
        self.magnitude.mul_(self.momentum).add_((1 - self.momentum) * mean)

    def forward(self, x: Tensor) -> Tensor:
        """Update the magnitude, then divide `x` by it."""
        self.update(x)
        return x / (self.magnitude + 1e-8).to(x.dtype)
