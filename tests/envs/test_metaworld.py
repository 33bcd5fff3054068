"""Meta-world beyond the contract: the scripted experts, and frames as the package draws them."""

import numpy as np
import pytest

import envs


@pytest.fixture(scope="module", params=["reach", "drawer-open"])
def env(request):
    env = envs.make("metaworld", request.param)
    yield env
    env.close()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_expert_solves_the_task(env, seed):
    env.reset(seed=seed)
    rewards, info = [], {"success": 0}
    while not info["success"] and len(rewards) < 120:
        action = env.unwrapped.expert()
        assert action.dtype == np.float32 and action in env.action_space
        _, reward, _, _, info = env.step(action)
        rewards.append(reward)
    assert info["success"] == 1
    assert rewards[-1] > 3 * rewards[0]


def test_the_first_frame_shows_the_episodes_own_places(env):
    """The package moves objects in the model without recomputing where that puts them."""
    env.reset(seed=3)
    once = env.unwrapped
    first = once.frame()
    once.control(np.zeros(4, np.float32))
    assert np.abs(once.frame().astype(int) - first).mean() < 1


def test_reference_frames_are_the_packages_own():
    import mujoco

    env = envs.make("metaworld", "drawer-open", render="reference").unwrapped
    frame, _ = env.reset(seed=0)
    plain = mujoco.Renderer(env.model, 64, 64)
    plain.update_scene(env.data, "corner")
    assert np.array_equal(frame, plain.render()[::-1])
    plain.close()
    env.close()
