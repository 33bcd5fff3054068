"""The video-based bonus against hand-computed values."""

import pytest
import torch
from torch import tensor

from cwm.behavior.bonus import VideoBonus
from cwm.infra.errors import UserError
from cwm.settings import BonusConfig


def bonus(**settings):
    defaults = {"beta": 1.0, "window": 1, "neighbours": 2, "queue": 4, "width": 1}
    module = VideoBonus(BonusConfig(**(defaults | settings)), features=1)
    module.projection.fill_(1.0)
    return module


def test_novelty_includes_the_clip_itself_and_the_queue():
    module = bonus()
    assert module.novelty(tensor([[[0.0], [3.0]]])).tolist() == [[1.5, 1.5]]  # (0 + 3) / 2
    # The queue now holds 0 and 3, then 7 comes before them: nearest are 7 itself and 3.
    assert module.novelty(tensor([[[7.0]]])).tolist() == [[2.0]]
    assert module.queue.flatten().tolist() == [7.0, 0.0, 3.0, 0.0]
    assert module.filled == 3


def test_windows_are_averaged_and_the_last_steps_have_no_bonus():
    module = bonus(window=2, neighbours=1)
    target = module(tensor([[[0.0], [2.0], [4.0]]]), tensor([[1.0, 2.0, 3.0]]))
    assert target.tolist() == [[1.0, 2.0]]  # each is its own nearest neighbour: no bonus
    assert module.queue[:2].flatten().tolist() == [1.0, 3.0]


def test_bonus_is_divided_by_its_running_magnitude():
    module = bonus(momentum=0.5, beta=2.0)
    target = module(tensor([[[0.0], [3.0]]]), tensor([[0.0, 1.0]]))
    # Novelty 1.5, magnitude 0.5 * 1 + 0.5 * 1.5 = 1.25, bonus 2 * 1.5 / 1.25 = 2.4.
    assert target.flatten().tolist() == pytest.approx([2.4, 3.4], rel=1e-6)


def test_novelty_of_similar_clips_is_exact_under_autocast():
    """In bfloat16 the product form of the distance would cancel."""
    torch.manual_seed(0)
    module = bonus(width=32, queue=64, neighbours=4)
    module.projection = torch.randn(8, 32)
    feat = 5 + 1e-3 * torch.randn(4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        novelty = module.novelty(feat)
    points = (feat @ module.projection).flatten(0, 1).double()
    exact = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    exact = exact.topk(4, largest=False)[0].mean(-1).unflatten(0, (4, 8))
    torch.testing.assert_close(novelty.double(), exact, rtol=1e-2, atol=0)


def test_batch_larger_than_queue_is_an_error():
    with pytest.raises(UserError, match=r"bonus\.queue is 4; it must be at least 5"):
        bonus().novelty(torch.zeros(1, 5, 1))
