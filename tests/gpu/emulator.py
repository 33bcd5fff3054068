"""CUDA graphs on a CPU: `install` makes captured functions run here with values.

A real capture computes nothing. The emulated capture records every operation below autograd, undoes
its effects, and fills its results with NaN until a replay. A replay runs the recorded operations
with their recorded arguments on the same tensors. The bytes of a captured run then differ from an
eager run if Python state was frozen, if a kept result was overwritten by the next replay, or if the
capture changed any state.

It raises where CUDA would: when a capture reads a value, or when another thread allocates pinned
memory during a capture in mode "global". It also raises when two captures share a stream, where
CUDA would silently share library workspaces.

It cannot detect races between streams, and it runs CPU kernels; `fake_cuda.py` tests GPU branches.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

# Operations that make the host wait for a result or its shape.
SYNCHRONISE = (
    *("_local_scalar_dense", "bincount", "equal", "is_nonzero", "masked_select", "nonzero"),
    *("repeat_interleave", "_unique2", "unique_dim", "unique_consecutive"),
)
READS = ("cpu", "numpy", "tolist")  # methods that copy to the host without a dispatched operation
ILLEGAL = "operation not permitted when stream is capturing"


class FakeDevice(str):
    """A device name that torch reads as "cpu" and that compares equal to "cuda"."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str(other) == "cuda"

    def __ne__(self, other: object) -> bool:
        return not self == other


class Call(NamedTuple):
    """A recorded operation."""

    function: Any
    args: tuple
    kwargs: dict[str, Any]
    made: list[Tensor | None]  # new results; None for an alias of an input


class Graph:
    """Emulates torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for call in self.calls:
                results = tensors(call.function(*call.args, **call.kwargs))
                for mine, new in zip(call.made, results, strict=True):
                    if mine is not None:
                        mine.copy_(new)


class Stream:
    """Emulates torch.cuda.Stream; operations run immediately and in order."""

    def __init__(self) -> None:
        self.warm = False
        self.captured = False
        self.waited: list[Stream] = []  # streams that it waited for, in order

    def wait_stream(self, other: "Stream") -> None:
        self.waited.append(other)

    def record_event(self) -> "Stream":
        return self

    def synchronize(self) -> None:
        pass


class Capture(TorchDispatchMode):
    """A capture in progress: the recorded calls and the storages they changed."""

    def __init__(self, graph: Graph, mode: str) -> None:
        super().__init__()
        self.graph = graph
        self.mode = mode
        self.thread = threading.get_ident()
        self.made: dict[int, Tensor] = {}  # storage -> a tensor that the capture created
        self.found: dict[
            int, tuple[torch.UntypedStorage, torch.UntypedStorage]
        ] = {}  # storage, copy before the capture
        self.alive: list[Any] = []  # keeps storages alive, so that addresses are not reused

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if synchronises(function, args):
            raise RuntimeError(f"{ILLEGAL}: {function}")
        given = tensors((args, kwargs))
        for x in given:
            storage = x.untyped_storage()
            if storage._cdata not in self.made and storage._cdata not in self.found:
                self.found[storage._cdata] = (storage, storage.clone())
        results = function(*args, **kwargs)
        before = {x.untyped_storage()._cdata for x in given}
        made = [x if x.untyped_storage()._cdata not in before else None for x in tensors(results)]
        self.made |= {x.untyped_storage()._cdata: x for x in made if x is not None}
        self.alive += [given, made]
        # The schema of batch norm does not declare that it changes the running statistics.
        changes = function._schema.is_mutable or "batch_norm" in function._schema.name
        if changes or any(x is not None for x in made):
            alias = (tree_map_only(Tensor, Tensor.detach, x) for x in (args, kwargs))
            made = [None if x is None else x.detach() for x in made]
            self.graph.calls.append(Call(function, *alias, made))
        return results

    def undo(self) -> None:
        for storage, was in self.found.values():
            storage.copy_(was)
        for x in self.made.values():
            if x.is_floating_point():
                x.untyped_storage().fill_(255)  # every byte 255 is NaN


def synchronises(function: Any, args: tuple) -> bool:
    """Whether the host waits for this operation, as for indexing by a mask."""
    name = function._schema.name.removeprefix("aten::")
    masked = "index" in name and any(x.dtype == torch.bool for x in tensors(args[1:2]))
    return masked or name in SYNCHRONISE


def tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


class Emulator:
    """Emulates the functions of torch.cuda that CUDA graphs need."""

    def __init__(self) -> None:
        self.streams = [Stream()]
        self.capture: Capture | None = None
        self.graphs: list[Graph] = []

    def current_stream(self) -> Stream:
        return self.streams[-1]

    @contextlib.contextmanager
    def stream(self, stream: Stream | None) -> Iterator[None]:
        self.streams.append(stream or self.streams[-1])
        self.streams[-1].warm = True
        yield
        self.streams.pop()

    @contextlib.contextmanager
    def graph(
        self, graph: Graph, stream: Stream | None = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        if stream is None or stream.captured or not stream.warm:
            raise RuntimeError("a capture needs a warmed-up stream of its own")
        outer = self.current_stream()
        if outer not in stream.waited or stream not in outer.waited:
            raise RuntimeError("warm-up and what surrounds it must wait for each other")
        stream.captured = True
        random = torch.get_rng_state()
        self.capture = capture = Capture(graph, capture_error_mode)
        try:
            with self.stream(stream), capture:
                yield
        finally:
            self.capture = None
            torch.set_rng_state(random)
            capture.undo()
        self.graphs.append(graph)

    def check(self, what: str, *, pinned: bool = False) -> None:
        """Raise if the current capture forbids the operation."""
        if self.capture is None:
            return
        here = self.capture.thread == threading.get_ident()
        if here or (pinned and self.capture.mode == "global"):
            raise RuntimeError(f"{ILLEGAL}: {what}")


def install(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Replace torch.cuda by an emulator; runs then use the device "cuda"."""
    emulator = Emulator()
    parts = {
        "CUDAGraph": Graph,
        "Stream": Stream,
        "current_stream": emulator.current_stream,
        "stream": emulator.stream,
        "graph": emulator.graph,
        "get_rng_state": torch.get_rng_state,
        "set_rng_state": torch.set_rng_state,
        "is_bf16_supported": lambda: True,
    }
    for name, part in parts.items():
        monkeypatch.setattr(torch.cuda, name, part)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    for name in READS:
        read = getattr(Tensor, name)

        def checked(x: Tensor, *args: Any, read: Any = read, name: str = name, **kw: Any) -> Any:
            emulator.check(name)
            found = read(x, *args, **kw)
            return found.clone() if name == "cpu" else found  # a copy, as from a GPU

        monkeypatch.setattr(Tensor, name, checked)

    def pin_memory(x: Tensor) -> Tensor:
        emulator.check("pin_memory", pinned=True)
        return x.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    for module in ("cwm.train.pretrain", "cwm.train.finetune"):
        monkeypatch.setattr(f"{module}.set_up", lambda runtime: FakeDevice("cpu"))
    return emulator
