"""A linear layer inside a loop over time, whose weight learns from all steps at once.

Autograd would form the weight's gradient at every step and add them up: as many small products
and as many passes over the weight as there are steps. Here it is one product over time.

Shapes: B batch, T time, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor


class TimeBatchedLinear:
    """x (B, I) -> sums[:, t] + x W^T (B, O) for t = 0, 1, ... in turn, as autocast has it."""

    def __init__(self, weight: Tensor, sums: Tensor) -> None:
        """weight (O, I); sums (B, T, O), or a bias (O,) expanded to that, with their gradients."""
        device = weight.device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else weight.dtype
        self.weight = weight.detach().to(dtype).mT
        self.inputs: list[Tensor] = []
        self.sums = iter(_Learn.apply(sums.to(dtype), weight, self.inputs).unbind(1))

    def __call__(self, x: Tensor) -> Tensor:
        """The next step."""
        x = x.to(self.weight.dtype)
        self.inputs.append(x.detach())
        return torch.addmm(next(self.sums), x, self.weight)


class _Learn(torch.autograd.Function):
    """The sums as they are. Their gradients are those of the outputs, which the weight's needs."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs, ctx.dtype = inputs, weight.dtype
        return sums.view_as(sums)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs = torch.stack(ctx.inputs, 1).flatten(0, 1)
        return grad, (grad.flatten(0, 1).mT @ inputs).to(ctx.dtype), None
