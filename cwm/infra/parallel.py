"""What threads work out a little ahead of who needs it."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(
    work: Callable[[T], R], items: Iterable[T], threads: int, stop: threading.Event | None = None
) -> Iterator[R]:
    """Results of `work` in the order of the items, which may be endless: few are taken ahead.

    However this ends, `stop` is set then, so that work under way can give up.
    """
    ahead = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            if stop is not None:
                stop.set()
            pool.shutdown(cancel_futures=True)
