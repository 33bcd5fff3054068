"""Attribute milliseconds, FLOPs or operations of an update to its parts.

Methods of `cwm` are patched for one pass. A wrapper reads the counter where its part begins and
ends. The backward pass runs in reverse: a hook on the tensors that a part returned marks where its
backward begins, and a hook on its inputs marks where the backward of the enclosing part resumes.
"""

import operator
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

REST = "rest"
BACKWARD = ", backward"

# torch's FLOP table lacks the attention kernel for CPUs. These functions get argument shapes.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v)
    ),
}


class Part(NamedTuple):
    """A method that is timed as a part of the update."""

    owner: Any
    method: str
    name: str


class Timeline:
    """Readings of a counter; the difference of two belongs to the part of the first."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self.read = read
        self.stack = [REST]
        self.marks = [(REST, read())]

    def mark(self, part: str) -> None:
        self.marks.append((part, self.read()))

    def wrap(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._own(self.stack[-1], [*args, *kwargs.values()])
            self.stack.append(part)
            self.mark(part)
            result = call(*args, **kwargs)
            self._own(part, result)
            self.stack.pop()
            self.mark(self.stack[-1])
            return result

        return wrapped

    def _own(self, part: str, result: Any) -> None:
        """Attribute the backward pass of these tensors to `part`, if no part has it yet."""
        for tensor in tensors(result):
            if tensor.grad_fn is not None and not hasattr(tensor, "part"):
                tensor.part = part
                tensor.register_hook(partial(self._backward, part))

    def _backward(self, part: str, gradient: Tensor) -> None:
        self.mark(part + BACKWARD)

    def shares(self, minus: Callable[[Any, Any], float]) -> dict[str, float]:
        """The total of each part, in order of first appearance."""
        taken: dict[str, float] = defaultdict(float)
        for (part, begun), (_, ended) in zip(self.marks, self.marks[1:], strict=False):
            taken[part] += minus(ended, begun)
        return dict(taken)


def tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, dict | tuple | list):
        for each in result.values() if isinstance(result, dict) else result:
            yield from tensors(each)


def measure(
    update: Callable[[], object],
    parts: list[Part],
    read: Callable[[], Any],
    minus: Callable[[Any, Any], float] = operator.sub,
) -> dict[str, float]:
    """How much each part of an update adds to the counter that `read` returns."""
    line = Timeline(read)
    with ExitStack() as stack:
        for owner, method, name in [*parts, Part(torch.autograd, "grad", "losses" + BACKWARD)]:
            wrapped = line.wrap(name, getattr(owner, method))
            stack.enter_context(patch.object(owner, method, wrapped))
        update()
    line.mark(REST)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return line.shares(minus)


def milliseconds(update: Callable[[], object], parts: list[Part], device: str) -> dict[str, float]:
    """Milliseconds of each part: CUDA events on a GPU, wall-clock time on a CPU."""
    if device != "cuda":
        return measure(update, parts, lambda: 1e3 * perf_counter())

    def event() -> torch.cuda.Event:
        now = torch.cuda.Event(enable_timing=True)
        now.record()
        return now

    return measure(update, parts, event, lambda ended, begun: begun.elapsed_time(ended))


def flops(update: Callable[[], object], parts: list[Part]) -> dict[str, float]:
    """FLOPs of matrix products and convolutions in each part, counted by torch."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        return measure(update, parts, counter.get_total_flops)


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operations(update: Callable[[], object], parts: list[Part]) -> dict[str, float]:
    """Number of tensor operations in each part, without views."""
    with _Operations() as counter:
        return measure(update, parts, lambda: counter.count)


def kernels(update: Callable[[], object]) -> int:
    """Number of kernels, copies and fills that the GPU ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        update()
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    return sum(event.device_type == cuda for event in profile.events())
