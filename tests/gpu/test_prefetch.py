"""Batches for a GPU are pinned, and only a few copies are queued."""

import pytest
import torch
from emulator import FakeDevice, install

from bench import inputs
from cwm.train.prefetch import prefetch


@pytest.fixture
def copies(monkeypatch):
    """Queued copies, oldest first; a copy finishes only when the host waits for it."""

    class Copy:
        def __init__(self):
            under_way.append(self)

        def synchronize(self):
            assert under_way.pop(0) is self

    under_way = []
    install(monkeypatch)
    monkeypatch.setattr(torch.cuda.current_stream(), "record_event", Copy, raising=False)
    return under_way


def test_host_is_at_most_three_copies_ahead(copies, tmp_path):
    store = inputs.clip_store(tmp_path, 4, 8)
    batches = prefetch(store, 0, 0, 2, 4, FakeDevice("cpu"))
    ahead = []
    for _ in range(6):
        next(batches)
        ahead.append(len(copies))
    assert ahead == [1, 2, 3, 3, 3, 3]
    batches.close()


def test_event_is_recorded_after_non_blocking_copy(copies, tmp_path, monkeypatch):
    to = torch.Tensor.to
    order = []

    def copy(x, *args, **options):
        order.append(("copy", options, len(copies)))
        return to(x, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", copy)
    batches = prefetch(inputs.clip_store(tmp_path, 4, 8), 0, 0, 2, 4, FakeDevice("cpu"))
    next(batches)
    batches.close()
    assert order == [("copy", {"non_blocking": True}, 0)]  # no event before the copy
    assert len(copies) == 1
