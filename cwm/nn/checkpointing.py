"""Memory of a CPU's update: what is cheap to compute is computed again for the step back.

Without it a residual layer keeps the image that its second convolution reads, and attention its
weights a second time, after their dropout: a tenth of all memory at the paper's sizes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LARGE = 2**23  # bytes; below, it costs more time than the memory is worth


def checkpointed(
    function: Callable[..., Tensor], *inputs: Tensor, norm: nn.BatchNorm2d | None = None
) -> Tensor:
    """function(*inputs), of which the step back keeps the inputs alone.

    It computes all again but the last operation. The function draws no random numbers; `norm` is
    what it normalises a batch by, whose running statistics see the batch once. What is small is
    kept, and on a GPU everything, where memory is plenty and such operations take the time.
    """
    small = inputs[0].nbytes < LARGE or inputs[0].is_cuda
    if small or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _seen(norm) if norm else nullcontext()

    return checkpoint(
        function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )


@contextmanager
def _seen(norm: nn.BatchNorm2d) -> Iterator[None]:
    """Running statistics and their count stay as they are."""
    momentum, count = norm.momentum, norm.num_batches_tracked
    norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        norm.momentum, norm.num_batches_tracked = momentum, count
