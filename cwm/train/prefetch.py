"""Batches as tensors on the device, read ahead by a thread."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import torch

from cwm.infra.parallel import parallel_map
from cwm.videos.store import ALL, ClipStore, Mixture


def prefetch(
    store: ClipStore | Mixture,
    seed: int,
    start: int,
    batch: int,
    length: int,
    device: str = "cpu",
    share: slice = ALL,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (i, a share of batch i of the seed's training clips, on the device); see `ahead`."""

    def read(i: int) -> dict[str, np.ndarray]:
        return {"image": store.sample(seed, i, batch, length, share=share)}

    return ((i, arrays["image"]) for i, arrays in ahead(read, start, device))


def ahead(
    read: Callable[[int], dict[str, np.ndarray]], start: int, device: str
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Yield (i, the arrays `read(i)` on the device) for i = start, start + 1, ...

    One thread reads two batches ahead. For a GPU it pins their memory, so that copies are
    asynchronous; at most three are in flight, which bounds the pinned memory.
    """
    cuda = device == "cuda"

    def tensors(i: int) -> dict[str, torch.Tensor]:
        arrays = {name: torch.from_numpy(array) for name, array in read(i).items()}
        return {name: x.pin_memory() for name, x in arrays.items()} if cuda else arrays

    copies: deque[torch.cuda.Event] = deque()
    for i, batch in zip(count(start), parallel_map(tensors, count(start), 1), strict=True):
        on_device = {name: x.to(device, non_blocking=True) for name, x in batch.items()}
        if cuda:
            copies.append(torch.cuda.current_stream().record_event())
            if len(copies) > 3:
                copies.popleft().synchronize()
        yield i, on_device
