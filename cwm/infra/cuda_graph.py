"""A function of tensors that a GPU runs as one captured CUDA graph.

An update launches thousands of small kernels, and launching them takes longer than running them.
A CUDA graph launches them all at once.
"""

import gc
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

WARM_UP = 3  # calls in which libraries choose their kernels and reserve their memory


class Captured(NamedTuple):
    """A graph, and the tensors that it reads and writes at every replay."""

    graph: torch.cuda.CUDAGraph
    inputs: Any
    results: Any


class Graphed:
    """`function`, captured at its first call for each structure and shape of its inputs.

    Inputs and results are tensors, None, or nested tuples, lists and dictionaries of them. The
    function must do the same at every call, must not wait for the GPU, and may change tensors in
    place only. `state` gives the tensors that it changes: a capture leaves them, and the random
    numbers, as they were. After `torch.manual_seed` a replay draws the numbers that an uncaptured
    call would.

    Results are copies, because the next replay overwrites what the graph wrote: the caller may
    keep and change them.
    """

    def __init__(
        self, function: Callable[..., Any], state: Callable[[], Iterable[Tensor]] = tuple
    ) -> None:
        self.function = function
        self.state = state
        self.captured: dict[Any, Captured] = {}

    def __call__(self, *inputs: Any) -> Any:
        """function(*inputs), for tensors on the GPU."""
        return tree_map_only(Tensor, torch.clone, self._replay(*inputs))

    def _replay(self, *inputs: Any) -> Any:
        """The results where the graph writes them, at every replay."""
        given, structure = tree_flatten(inputs)
        key = (structure, *((x.shape, x.dtype) if x is not None else None for x in given))
        if key not in self.captured:
            self.captured[key] = self._capture(inputs)
        graph, held, results = self.captured[key]
        for mine, theirs in zip(tree_flatten(held)[0], given, strict=True):
            if mine is not None:
                mine.copy_(theirs, non_blocking=True)
        graph.replay()
        return results

    def _capture(self, inputs: Any) -> Captured:
        held = tree_map_only(Tensor, torch.clone, inputs)
        before = [x.clone() for x in self.state()]
        random = torch.cuda.get_rng_state()
        # Destroying a graph during a capture would break the capture, so dead ones go first.
        gc.collect()
        # Libraries keep a workspace for each stream. Two graphs that shared a stream would write
        # to the same workspace, even when they run side by side.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.function(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that prefetches batches allocates pinned memory meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            results = self.function(*held)
        for changed, was in zip(self.state(), before, strict=True):
            changed.detach().copy_(was)
        torch.cuda.set_rng_state(random)
        return Captured(graph, held, results)
