"""The processes that train one model together, called ranks, and what they exchange.

torchrun starts them and numbers them by RANK, below WORLD_SIZE. A process without these variables
is the only one: it exchanges nothing. Rank 0 alone writes files.
"""

import ctypes
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from cwm.infra.errors import LostRankError, UserError

TIMEOUT = timedelta(hours=1)  # longer than rank 0 evaluates
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


class Ranks(NamedTuple):
    """This process among those that share a batch."""

    rank: int = 0
    size: int = 1


current = Ranks()


def started_rank() -> int:
    """The number that torchrun gave to this process; 0 without it."""
    return int(os.environ.get("RANK", 0))


def join(device: str, settings: Mapping[str, Any]) -> None:
    """Connect this process to the others, if torchrun started several.

    Raises UserError unless `settings` (nested mappings) are equal on all of them.
    """
    global current
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return
    _die_with_parent()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    with _connection():
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    current = Ranks(distributed.get_rank(), size)
    _check_equal(settings)


def leave() -> None:
    """Undo `join`, after the last exchange."""
    global current
    if current.size > 1:
        distributed.destroy_process_group()
    current = Ranks()


def _die_with_parent() -> None:
    """End this process when torchrun is killed; otherwise it would go on and hold the run."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _check_equal(settings: Mapping[str, Any]) -> None:
    every: list[Any] = [None] * current.size
    with _connection():
        distributed.all_gather_object(every, dict(_flat(settings)))
        distributed.barrier()  # no process may end while another one still reads from it
    for rank, other in enumerate(every):
        for name in sorted(every[0].keys() | other.keys()):
            mine, first = other.get(name), every[0].get(name)
            if mine != first:
                difference = f"rank {rank} has {name} {mine!r}, but rank 0 has {first!r}"
                leave()
                raise UserError(f"{difference}; give all processes the same settings and files")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@contextmanager
def alone() -> Iterator[None]:
    """Compute as a single process inside this context."""
    global current
    saved, current = current, Ranks()
    try:
        yield
    finally:
        current = saved


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over the ranks, which overwrites it."""
    if current.size > 1:
        with _connection():
            distributed.all_reduce(x)
    return x


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each tensor over the ranks; all have the same type."""
    if current.size == 1:
        return list(tensors)
    flat = total(torch.cat([x.flatten() for x in tensors])) / current.size
    parts = flat.split([x.numel() for x in tensors])
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]


def follow_first(step: int, tensors: Iterable[Tensor]) -> int:
    """Overwrite the tensors by those of rank 0; return its step."""
    if current.size == 1:
        return step
    tensors = list(tensors)
    number = torch.tensor(step, device=tensors[0].device)
    with _connection():
        for x in (number, *tensors):
            distributed.broadcast(x, 0)
    return int(number)


@contextmanager
def _connection() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(
            f"the connection to another process is lost ({str(error).splitlines()[0][:200]})"
        ) from error
