"""Wrap a function of tensors in a CUDA graph.

An update launches thousands of small kernels, and launching them takes longer than running them.
A CUDA graph launches them all at once.
"""

import gc
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

WARM_UP = 3  # uncaptured calls, in which libraries choose kernels and allocate workspaces


class Captured(NamedTuple):
    """A graph, and the tensors that every replay reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Any
    results: Any


class CapturedFunction:
    """Call `function` as a CUDA graph, captured once per structure, shape and dtype of the inputs.

    Inputs and results are tensors, None, or nested tuples, lists and dictionaries of them. The
    function must do the same in every call, must not synchronise with the GPU, and may change
    tensors only in place. `state` returns the tensors that it changes; capturing restores them and
    the random number generator. After `torch.manual_seed` a replay draws the same numbers as an
    uncaptured call.

    Results are copies, because the next replay overwrites the graph's own: the caller may keep and
    change them.
    """

    def __init__(
        self, function: Callable[..., Any], state: Callable[[], Iterable[Tensor]] = tuple
    ) -> None:
        self.function = function
        self.state = state
        self.captured: dict[Any, Captured] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Return function(*inputs); tensors must be on the GPU."""
        return tree_map_only(Tensor, torch.clone, self._replay(*inputs))

    def _replay(self, *inputs: Any) -> Any:
        """Replay the graph; return its own result tensors, which the next replay overwrites."""
        given, structure = tree_flatten(inputs)
        key = (structure, *((x.shape, x.dtype) if x is not None else None for x in given))
        if key not in self.captured:
            self.captured[key] = self._capture(inputs)
        graph, held, results = self.captured[key]
        for static, new in zip(tree_flatten(held)[0], given, strict=True):
            if static is not None:
                static.copy_(new, non_blocking=True)
        graph.replay()
        return results

    def _capture(self, inputs: Any) -> Captured:
        held = tree_map_only(Tensor, torch.clone, inputs)
        before = [x.clone() for x in self.state()]
        random = torch.cuda.get_rng_state()
        # Destroying a graph during a capture breaks the capture, so collect dead ones first.
        gc.collect()
        # Libraries keep one workspace per stream. Graphs that shared a stream would write to the
        # same workspace even if they run concurrently.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.function(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: the prefetching thread may allocate pinned memory during the capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            results = self.function(*held)
        for changed, saved in zip(self.state(), before, strict=True):
            changed.detach().copy_(saved)
        torch.cuda.set_rng_state(random)
        return Captured(graph, held, results)
