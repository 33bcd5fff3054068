import itertools
import threading
from contextlib import closing

import pytest

from cwm.infra.parallel import parallel_map


def test_results_are_in_order_with_bounded_look_ahead():
    taken = []
    endless = (taken.append(i) or i for i in itertools.count())
    with closing(parallel_map(lambda i: i * i, endless, threads=3)) as results:
        assert list(itertools.islice(results, 50)) == [i * i for i in range(50)]
        assert len(taken) <= 50 + 2 * 3
    assert list(parallel_map(str, range(4), threads=3)) == ["0", "1", "2", "3"]


def test_error_stops_the_work_in_progress():
    stop = threading.Event()

    def work(i):
        if i == 1:
            raise ValueError("one")
        return i if i == 0 else stop.wait(30)

    results = parallel_map(work, range(9), 2, stop)
    assert next(results) == 0
    with pytest.raises(ValueError, match="one"):
        next(results)
    assert stop.is_set()
