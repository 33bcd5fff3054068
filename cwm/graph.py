"""A function of tensors that a GPU runs as one captured graph.

An update launches thousands of small kernels, and launching them takes longer than running them.
A CUDA graph launches them all at once.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # calls in which libraries choose their kernels and reserve their memory


class Graphed:
    """`function`, captured at its first call for each shape of its inputs.

    It must do the same every time, wait for nothing on the host, and change tensors in place only.
    `state` gives those that it changes: capturing leaves them, and the random numbers, as they
    were. Results are overwritten by the next call. A generator that is seeded anew between calls
    gives in a graph what it gives outside.
    """

    def __init__(
        self, function: Callable[..., Any], state: Callable[[], Iterable[Tensor]] = tuple
    ) -> None:
        self.function = function
        self.state = state
        self.captured: dict[Any, tuple[torch.cuda.CUDAGraph, tuple[Tensor | None, ...], Any]] = {}

    def __call__(self, *inputs: Tensor | None) -> Any:
        """What the function makes of tensors on the GPU; None stays None."""
        shapes = tuple(None if x is None else (x.shape, x.dtype) for x in inputs)
        if shapes not in self.captured:
            self.captured[shapes] = self._capture(inputs)
        graph, held, results = self.captured[shapes]
        for mine, given in zip(held, inputs, strict=True):
            if mine is not None:
                mine.copy_(given, non_blocking=True)
        graph.replay()
        return results

    def _capture(
        self, inputs: tuple[Tensor | None, ...]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor | None, ...], Any]:
        held = tuple(None if x is None else x.clone() for x in inputs)
        before = [x.clone() for x in self.state()]
        random = torch.cuda.get_rng_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.function(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self.function(*held)
        for changed, was in zip(self.state(), before, strict=True):
            changed.detach().copy_(was)
        torch.cuda.set_rng_state(random)
        return graph, held, results
