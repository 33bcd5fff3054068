"""Training episodes and evaluation, on an environment whose rewards the seed decides."""

import numpy as np
from gymnasium.vector import SyncVectorEnv

from cwm.train.rollout import Collector, evaluate, sum_up
from envs import vector
from envs.pixels import PixelEnv


class FourSteps(PixelEnv):
    """Four steps with random rewards; the second succeeds."""

    def __init__(self):
        super().__init__(1, "fast", 1, None)
        self.seeds = []

    def begin(self, seed):
        self.seeds.append(seed)
        self.rewards = iter(np.random.default_rng(seed).integers(1, 100, 4))
        self.left = 4

    def control(self, action):
        self.left -= 1
        info = {"success": float(self.left == 2), "tolls": 0.25, "bumps": float(self.left)}
        return float(next(self.rewards)), False, self.left == 0, info

    def frame(self, height=64, width=64):
        return np.full((height, width, 3), self.left, np.uint8)


def collect(collector, episodes):
    """Finished episodes with their outcomes, and `is_first` of every step."""
    finished, firsts = [], []
    while len(finished) < episodes:
        firsts.append(collector.is_first)
        done = collector.step(np.zeros(1))
        finished += [done] if done else []
    return finished, firsts


def test_collector_returns_each_episode_with_its_totals():
    finished, firsts = collect(Collector(FourSteps(), 0, 0), 2)
    for episode, outcome in finished:
        assert outcome == (episode.reward.sum(), 1.0, 4, {"bumps": 6.0, "tolls": 1.0}, [])
        assert len(episode.reward) == 5 and episode.reward[0] == 0
        assert episode.image[:, 0, 0, 0].tolist() == [4, 3, 2, 1, 0]
    assert firsts == [True, False, False, False] * 2


def test_episode_seed_depends_on_run_seed_and_episode_number_only():
    straight, resumed, other = FourSteps(), FourSteps(), FourSteps()
    collect(Collector(straight, 0, 0), 3)
    Collector(resumed, 0, 2)
    Collector(other, 1, 2)
    assert len(set(straight.seeds)) == 4
    assert resumed.seeds == straight.seeds[2:3] != other.seeds


def test_sums_round_the_same_on_every_python_version():
    """`sum` gives 1.0 here in Python 3.12."""
    outcome = sum_up([0.1] * 10, [{"tolls": 0.1}] * 10, [])
    assert outcome[:4] == (0.9999999999999999, None, 10, {"tolls": 0.9999999999999999})


def test_evaluation_runs_one_episode_per_seed_with_a_fresh_policy_per_batch():
    policies = []

    def policy():
        policies.append([])
        return lambda image, first: policies[-1].append(first.copy()) or np.zeros((len(image), 1))

    pair = SyncVectorEnv([lambda: vector.Member(FourSteps())] * 2)
    seeds = [seed << 32 for seed in range(3)]
    outcomes = list(evaluate(pair, policy, seeds, film=True))
    alone = [
        next(evaluate(SyncVectorEnv([lambda: vector.Member(FourSteps())]), policy, [seed]))
        for seed in seeds
    ]
    assert [outcome[:4] for outcome in outcomes] == [outcome[:4] for outcome in alone]
    assert len(outcomes[0].frames) == 5 and not outcomes[1].frames and not outcomes[2].frames
    assert [first.tolist() for first in policies[0]] == [[1, 1]] + [[0, 0]] * 3
    assert [first.tolist() for first in policies[1]] == [[1]] + [[0]] * 3
