"""A map over threads, ordered and with bounded look-ahead."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(
    work: Callable[[T], R], items: Iterable[T], threads: int, stop: threading.Event | None = None
) -> Generator[R, None, None]:
    """Yield the results of `work` in the order of the items, at most 2 * threads + 1 items ahead.

    `items` may be endless. `stop` is set at the end, after an error too, so that work in progress
    can give up.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            if stop is not None:
                stop.set()
            pool.shutdown(cancel_futures=True)
