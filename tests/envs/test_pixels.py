"""`PixelEnv.step` adds up control steps, tested on an environment that counts."""

import numpy as np
import pytest

from envs.pixels import PixelEnv


class Counter(PixelEnv):
    """Five control steps with rewards and tolls 1 to 5; only the second succeeds."""

    def __init__(self, action_repeat):
        super().__init__(1, "fast", action_repeat, None)

    def begin(self, seed):
        self.count = 0

    def control(self, action):
        self.count += 1
        info = {"success": float(self.count == 2), "toll": self.count}
        return float(self.count), False, self.count == 5, info

    def frame(self, height=64, width=64):
        return np.full((height, width, 3), self.count, np.uint8)


@pytest.mark.parametrize(
    ("action_repeat", "rewards", "successes"),
    [(1, [1, 2, 3, 4, 5], [0, 1, 0, 0, 0]), (2, [3, 7, 5], [1, 0, 0]), (3, [6, 9], [1, 0])],
)
def test_step_sums_control_steps_until_the_episode_ends(action_repeat, rewards, successes):
    env = Counter(action_repeat)
    env.reset(seed=0)
    steps = [env.step([0.0]) for _ in rewards]
    assert [step[1] for step in steps] == rewards
    assert [step[4]["success"] for step in steps] == successes
    assert [step[4]["toll"] for step in steps] == rewards
    assert [step[3] for step in steps] == [False] * (len(rewards) - 1) + [True]
    assert steps[-1][0].max() == 5
    assert env.control_steps == 5
    env.reset(seed=0)
    env.step([0.0])
    assert env.control_steps == 5 + action_repeat
