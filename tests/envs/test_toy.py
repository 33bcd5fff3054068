"""Toy tasks: the solution, multisampling, the position of the blob."""

import numpy as np
import pytest

import envs


@pytest.fixture(scope="module", params=["blob", "sphere"])
def env(request):
    env = envs.make("toy", request.param)
    yield env
    env.close()


def mean_return(env, policy, episodes=12):
    total = 0.0
    for seed in range(episodes):
        env.reset(seed=seed)
        truncated = False
        while not truncated:
            _, reward, _, truncated, _ = env.step(policy())
            total += reward
    return total / episodes


def test_moving_to_the_centre_gets_the_highest_return(env):
    toy, rng = env.unwrapped, np.random.default_rng(0)

    def centre():
        place = toy.position if hasattr(toy, "position") else toy.data.qpos
        return np.clip(-4 * place, -1, 1)

    solved = mean_return(env, centre)
    others = [lambda: np.zeros(2), lambda: rng.uniform(-1, 1, 2), lambda: np.array([1, 0])]
    assert solved > 1.8 * max(mean_return(env, other) for other in others)


def test_only_reference_uses_multisampling():
    """Without it an edge between two colours has no third colour."""
    colours = {}
    for render in ("fast", "reference"):
        env = envs.make("toy", "sphere", render=render).unwrapped
        env.reset(seed=0)
        env.data.geom_xpos[env.model.geom("sphere").id] = 9  # out of sight
        colours[render] = len(np.unique(env.frame().reshape(-1, 3), axis=0))
        env.close()
    assert colours["fast"] == 2 < colours["reference"]


def test_blob_is_drawn_at_its_position():
    env = envs.make("toy", "blob").unwrapped
    env.position = np.array([0.5, 0.25])  # 12 pixels right of the centre, 6 above
    frame = env.frame().sum(-1).astype(float)
    weight = frame - frame.min()
    rows, columns = np.indices((64, 64)) + 0.5
    assert (weight * columns).sum() / weight.sum() == pytest.approx(32 + 12, abs=0.1)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(32 - 6, abs=0.1)
