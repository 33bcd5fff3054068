"""The experiment on windows and the context frame: what its batches contain."""

import numpy as np
import torch

from bench.context_window import short_windows
from cwm.settings import ContextConfig, ModelConfig, ReplayConfig, RSSMConfig, VisionConfig
from cwm.train.replay import Episode, Replay
from cwm.world.vision import Vision

SMALL = ModelConfig(
    vision=VisionConfig(depth=4, layers=1),
    context=ContextConfig(),
    rssm=RSSMConfig(deter=16, hidden=16, stoch=2, classes=4),
)


def test_windows_are_short_and_their_context_is_of_the_segment(tmp_path):
    """An episode whose frame t has the brightness t shows where frames come from."""
    replay = Replay(ReplayConfig(), tmp_path, 20, 100)
    steps = np.arange(21)
    image = np.broadcast_to(steps[:, None, None, None], (21, 64, 64, 3)).astype(np.uint8)
    replay.add(Episode(image, np.zeros((21, 2), np.float32), steps.astype(np.float32)))
    vision, seen = Vision(SMALL).train(), []
    vision.context.register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    outside = 0
    with short_windows(8):
        for i in range(20):
            batch = replay.sample(0, i, 10)
            assert batch.image.shape == (10, 8, 64, 64, 3)
            assert batch.is_first.tolist() == [[1] + [0] * 7] * 10
            assert (batch.reward.diff() == 1).all()  # consecutive steps
            assert torch.equal(batch.image[..., 0, 0, 0], batch.reward.byte())
            vision.encode_context(vision.pixels(batch.image))
            context = ((seen[-1][:, 0, 0, 0] + 0.5) * 255).round()
            outside += ((context < batch.reward[:, 0]) | (context > batch.reward[:, -1])).sum()
    assert 0.3 < outside / 200 < 0.8  # of 20 steps, 8 are in the window
    assert replay.sample(0, 0, 10).image.shape[1] == 20  # the patch is gone
