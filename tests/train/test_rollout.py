"""Episodes and their sums, and what becomes of one that the simulator breaks off."""

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import envs
from cwm.train.rollout import Collector, Outcome, evaluate, sum_up
from envs import vector
from envs.pixels import PixelEnv


class Fragile(PixelEnv):
    """Four steps whose rewards the seed draws; breaks off in the given calls of `control`."""

    def __init__(self, *breaks):
        super().__init__(1, "fast", 1, None)
        self.breaks, self.calls, self.seeds = set(breaks), 0, []

    def begin(self, seed):
        self.seeds.append(seed)
        self.rewards = iter(np.random.default_rng(seed).integers(1, 100, 4))
        self.left = 4

    def control(self, action):
        self.calls += 1
        if self.calls in self.breaks:
            raise envs.Interrupted("the power failed")
        self.left -= 1
        info = {"success": float(self.left == 2), "tolls": 0.25, "bumps": float(self.left)}
        return float(next(self.rewards)), False, self.left == 0, info

    def frame(self, height=64, width=64):
        return np.full((height, width, 3), self.left, np.uint8)


def play(env, episodes):
    collector, finished, firsts = Collector(env, 0, 0), [], []
    while len(finished) < episodes:
        firsts.append(collector.is_first)
        done = collector.step(np.zeros(1))
        finished += [done] if done else []
    return finished, firsts


def test_an_outcome_sums_up(caplog):
    ((episode, outcome),), _ = play(Fragile(), 1)
    assert outcome == (episode.reward.sum(), 1.0, 4, {"bumps": 6.0, "tolls": 1.0}, [])
    assert len(episode.reward) == 5 and episode.reward[0] == 0
    assert caplog.text == ""


def test_a_sum_is_rounded_alike_on_every_python():
    """Python 3.12's `sum` gives 1.0 here."""
    outcome = sum_up([0.1] * 10, [{"tolls": 0.1}] * 10, [])
    assert outcome[:4] == (0.9999999999999999, None, 10, {"tolls": 0.9999999999999999})


def test_a_broken_episode_is_forgotten_and_begun_again(caplog):
    straight, _ = play(Fragile(), 3)
    fragile = Fragile(7, 9)  # the third step of the second episode, then the second of it
    broken, firsts = play(fragile, 3)
    for (one, sums), (other, others) in zip(straight, broken, strict=True):
        assert sums == others
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert [i for i, first in enumerate(firsts) if first] == [0, 4, 7, 9, 13]
    assert fragile.seeds[1] == fragile.seeds[2] == fragile.seeds[3] != fragile.seeds[4]
    assert caplog.text.count("the power failed; episode 1 begins again") == 2


def pair(*breaks):
    """Two environments for evaluation; the second breaks off in these calls."""
    members = [vector.Member(Fragile()), vector.Member(Fragile(*breaks))]
    return SyncVectorEnv([lambda member=member: member for member in members])


def test_a_broken_evaluation_is_begun_again(caplog):
    policies = []

    def policy():
        policies.append(len(policies))
        return lambda image, first: np.zeros((len(image), 1))

    seeds = [seed << 32 for seed in range(3)]
    straight = list(evaluate(pair(), policy, seeds, film=True))
    broken = list(evaluate(pair(3), policy, seeds, film=True))
    for one, other in zip(straight, broken, strict=True):
        assert one[:4] == other[:4] and np.array_equal(one.frames, other.frames)
    assert policies == [0, 1, 2, 3, 4]  # two waves, and one of them twice
    assert "the power failed; evaluation 0 to 1 begin again" in caplog.text
    assert isinstance(broken[0], Outcome)


def test_what_cannot_be_mended_is_not_caught():
    class Ruined(Fragile):
        def control(self, action):
            raise envs.EnvError("that makes 3 in a row")

    with pytest.raises(envs.EnvError, match="3 in a row"):
        play(Ruined(), 1)
