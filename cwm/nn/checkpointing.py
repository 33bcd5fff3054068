"""Activation checkpointing: cheap activations are recomputed in the backward pass.

Residual layers then do not store the input of their second convolution, and attention does not
store its weights after dropout. At the paper's sizes this is a tenth of the peak memory on a CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LARGE = 2**23  # bytes; below this size the time costs more than the memory


def checkpointed(
    function: Callable[..., Tensor], *inputs: Tensor, norm: nn.BatchNorm2d | None = None
) -> Tensor:
    """function(*inputs), saving only the inputs for the backward pass.

    The function must not draw random numbers. `norm` is the batch norm that it calls, whose running
    statistics are updated once. Small inputs are not checkpointed. Neither are inputs on a GPU,
    where recomputation takes longer and memory is not the limit.
    """
    small = inputs[0].nbytes < LARGE or inputs[0].is_cuda
    if small or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _frozen_statistics(norm) if norm else nullcontext()

    return checkpoint(
        function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )


@contextmanager
def _frozen_statistics(norm: nn.BatchNorm2d) -> Iterator[None]:
    momentum, count = norm.momentum, norm.num_batches_tracked
    norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        norm.momentum, norm.num_batches_tracked = momentum, count
