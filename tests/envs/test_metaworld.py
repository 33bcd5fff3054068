"""Meta-world: scripted experts, first frame, reference frames."""

import numpy as np
import pytest

import envs


@pytest.fixture(scope="module", params=["reach", "drawer-open"])
def env(request):
    env = envs.make("metaworld", request.param)
    yield env
    env.close()


@pytest.mark.parametrize("seed", [0, 1])
def test_expert_solves_the_task(env, seed):
    env.reset(seed=seed)
    rewards, info = [], {"success": 0}
    while not info["success"] and len(rewards) < 120:
        action = env.unwrapped.expert()
        assert action.dtype == np.float32 and action in env.action_space
        _, reward, _, _, info = env.step(action)
        rewards.append(reward)
    assert info["success"] == 1
    assert rewards[-1] > 3 * rewards[0]


def test_first_frame_shows_the_new_object_positions(env):
    """The package moves objects in the model without recomputing their positions in the world."""
    env.reset(seed=3)
    bare = env.unwrapped
    first = bare.frame()
    bare.control(np.zeros(4, np.float32))
    assert np.abs(bare.frame().astype(int) - first).mean() < 1


def test_reference_frames_equal_mujocos_own_renderer():
    import mujoco

    env = envs.make("metaworld", "drawer-open", render="reference").unwrapped
    frame, _ = env.reset(seed=0)
    plain = mujoco.Renderer(env.model, 64, 64)
    plain.update_scene(env.data, "corner")
    assert np.array_equal(frame, plain.render()[::-1])
    plain.close()
    env.close()
