"""Every id: spaces, one reset, one step. test_contract.py tests a few tasks in depth."""

import gc

import numpy as np
import pytest
from gymnasium.spaces import Box

import envs

IDS = [f"{suite}/{task}" for suite in envs.SUITES if suite != "carla" for task in envs.tasks(suite)]


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """A collection looks at the objects of this file only: a second less in a long process."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", IDS)
def test_reset_and_step(name):
    env = envs.make(*name.split("/"))
    try:
        assert env.observation_space == Box(0, 255, (64, 64, 3), np.uint8)
        assert env.action_space == Box(-1, 1, env.action_space.shape, np.float32)
        frame, _ = env.reset(seed=0)
        after, reward, *_ = env.step(np.zeros(env.action_space.shape, np.float32))
        assert frame.std() > 3 and after.shape == (64, 64, 3)
        assert np.isfinite(reward)
    finally:
        env.close()
        gc.collect()
