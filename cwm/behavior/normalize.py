"""A running magnitude to divide by."""

import torch
from torch import Tensor, nn


class RunningMagnitude(nn.Module):
    """m <- momentum m + (1 - momentum) mean|x|, then x / (m + 1e-8); m starts at 1."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("magnitude", torch.ones((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take the mean magnitude of `x` into account."""
        mean = x.abs().mean().to(self.magnitude.dtype)
        self.magnitude.mul_(self.momentum).add_((1 - self.momentum) * mean)

    def forward(self, x: Tensor) -> Tensor:
        """Update by `x`, then divide it by the magnitude."""
        self.update(x)
        return x / (self.magnitude + 1e-8).to(x.dtype)
