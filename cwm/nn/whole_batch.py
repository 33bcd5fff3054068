"""Equal results for any number of processes that share a batch.

Each process has equally many rows of it. Random numbers are drawn for the whole batch on each of
them, and batch norms and clipped means use the whole batch. With one process these functions
only call torch.

Shapes: N rows of this process, C channels, H W an image.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cwm.infra import ranks
from cwm.infra.errors import UserError


def share(batch: int) -> slice:
    """The rows of this process in a batch."""
    rank, size = ranks.current
    check_share(batch, size)
    return slice(batch // size * rank, batch // size * (rank + 1))


def check_share(batch: int, processes: int) -> None:
    """Raise UserError unless all processes get equally many rows."""
    if batch % processes:
        raise UserError(
            f"pretrain.batch {batch} is no multiple of {processes} processes"
            " (pretrain.devices * pretrain.nodes)"
        )


def draw(random: Callable[[int], Tensor], rows: int) -> Tensor:
    """The `rows` of this process in random(rows of all processes)."""
    rank, size = ranks.current
    return random(rows * size)[rows * rank : rows * (rank + 1)]


def shared_mean(x: Tensor) -> Tensor:
    """The mean of x () over the processes."""
    return _SharedMean.apply(x) if ranks.current.size > 1 else x


class _SharedMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return ranks.average([x])[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ranks.average([grad])[0]


def synchronise_norms(model: nn.Module) -> None:
    """Let the batch norms of a model use the statistics of the whole batch in training."""
    if ranks.current.size == 1:
        return
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for norm in list(model.modules()):
        if isinstance(norm, nn.BatchNorm2d):
            norm.__class__ = WholeBatchNorm


class WholeBatchNorm(nn.BatchNorm2d):
    """What torch's SyncBatchNorm does, which needs a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> its normalised values."""
        if not self.training:
            return super().forward(x)
        y, mean, variance = _Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.momentum and self.running_mean is not None and self.running_var is not None:
            n = x.numel() // x.shape[1] * ranks.current.size
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        return y


class _Normalise(torch.autograd.Function):
    """Batch norm whose sums, forward and backward, run over all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        rank, size = ranks.current
        parts = weight.new_zeros(size, 2, len(weight))  # mean and variance of each process
        parts[rank] = torch.stack(torch.batch_norm_update_stats(x, None, None, 0.0))
        means, variances = ranks.total(parts).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With x' = (x - mean) / std: weight / std * (grad - mean(grad) - x' mean(grad x'))."""
        x, weight, mean, variance = ctx.saved_tensors
        _, own_weight, own_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        n = x.numel() // x.shape[1] * ranks.current.size
        along, shift = ranks.total(torch.stack([own_weight, own_bias])) / n
        scale = weight * (variance + ctx.eps).rsqrt()
        constant = F.batch_norm(x, mean, variance, -scale * along, -scale * shift, eps=ctx.eps)
        inner = torch.addcmul(constant, grad, scale[:, None, None])
        return inner.to(x.dtype), own_weight, own_bias, None
