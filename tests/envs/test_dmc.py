"""The Control suite beyond the contract: its own pictures, its own bounds."""

import numpy as np
import pytest

import envs


@pytest.mark.parametrize(("task", "camera"), [("cartpole-swingup", 0), ("quadruped-escape", 2)])
def test_reference_frames_are_the_suites_own(task, camera):
    env = envs.make("dmc", task, render="reference").unwrapped
    env.reset(seed=0)
    frame, _ = env.reset(seed=1)  # in `escape` each episode has its own terrain
    own = env._env.physics.render(64, 64, camera_id=camera)
    env.close()
    assert np.array_equal(frame, own)


def test_actions_reach_the_bounds_of_the_quadruped():
    env = envs.make("dmc", "quadruped-walk").unwrapped
    bounds = env._env.action_spec()
    for value, bound in ((-1, bounds.minimum), (1, bounds.maximum)):
        env.reset(seed=0)
        env.step(np.full(12, value))
        assert np.allclose(env.data.ctrl, bound)
    env.close()


def test_fast_leaves_out_what_reference_draws():
    frames = {}
    for render in ("fast", "reference"):
        env = envs.make("dmc", "walker-walk", render=render)
        frames[render], _ = env.reset(seed=0)
        env.close()
    difference = np.abs(frames["fast"].astype(int) - frames["reference"])
    assert 0.5 < difference.mean() < 20
