"""A linear layer for a loop over time that computes its weight gradient once, over all steps.

Autograd would compute a weight gradient at every step and add them up. Here the backward pass
multiplies the stacked inputs and output gradients once.

Shapes: B batch, T time, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor


class TimeBatchedLinear:
    """x (B, I) -> sums[:, t] + x W^T (B, O) for successive t = 0, 1, ...; follows autocast."""

    def __init__(self, weight: Tensor, sums: Tensor) -> None:
        """weight (O, I); sums (B, T, O), or a bias (O,) expanded to it; both get gradients."""
        device = weight.device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else weight.dtype
        self.weight = weight.detach().to(dtype).mT
        self.inputs: list[Tensor] = []
        self.sums = iter(_WeightGradient.apply(sums.to(dtype), weight, self.inputs).unbind(1))

    def __call__(self, x: Tensor) -> Tensor:
        """The output (B, O) of the next step."""
        x = x.to(self.weight.dtype)
        self.inputs.append(x.detach())
        return torch.addmm(next(self.sums), x, self.weight)


class _WeightGradient(torch.autograd.Function):
    """Identity on `sums`; their gradients are the output gradients of all steps."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs, ctx.dtype = inputs, weight.dtype
        return sums.view_as(sums)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs = torch.stack(ctx.inputs, 1).flatten(0, 1)
        return grad, (grad.flatten(0, 1).mT @ inputs).to(ctx.dtype), None
