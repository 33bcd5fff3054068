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


REMASTERED = ("sphere-remastered", "sphere-remastered-hard", "sphere-chase")


@pytest.mark.parametrize("task", REMASTERED)
def test_appearance_changes_pixels_but_neither_state_nor_reward(task):
    env = envs.make("toy", task).unwrapped
    found = []
    for look in (1, 2):
        frames = [env.reset(seed=5)[0]]
        env.set_appearance(look)
        frames.append(env.frame())
        rewards = [env.step(np.array([0.5, -1]))[1] for _ in range(5)]
        found.append((frames, rewards, env.data.qpos.tolist(), env.goal().tolist()))
    (first, second), (one, other) = (f[0] for f in found), (f[1:] for f in found)
    assert one == other
    assert np.array_equal(first[0], second[0])
    # The ground covers most of the frame.
    assert (first[1] != second[1]).any(-1).mean() > 0.5
    env.close()


@pytest.mark.parametrize("task", REMASTERED)
def test_heldout_appearances_are_others_with_the_same_dynamics(task):
    usual, heldout = (envs.make("toy", task, heldout=held) for held in (False, True))
    for seed in range(3):
        assert not np.array_equal(usual.reset(seed=seed)[0], heldout.reset(seed=seed)[0])
        one, other = (e.step(np.ones(2, np.float32)) for e in (usual, heldout))
        assert one[1] == other[1]
    usual.close()
    heldout.close()


def test_ground_varies_in_both_levels_and_sphere_and_goal_in_the_hard_one():
    for task, varies in (("sphere-remastered", False), ("sphere-remastered-hard", True)):
        env = envs.make("toy", task).unwrapped
        seen = set()
        for seed in range(4):
            env.reset(seed=seed)
            seen.add(tuple(env.model.geom("sphere").rgba) + tuple(env.model.geom("goal").rgba))
        assert (len(seen) == 4) == varies
        env.close()


def test_goal_of_chase_moves_on_a_circle_and_is_drawn_there():
    env = envs.make("toy", "sphere-chase").unwrapped
    env.reset(seed=0)
    places = []
    for _ in range(20):
        places.append(env.goal())
        np.testing.assert_allclose(env.data.geom("goal").xpos[:2], places[-1])
        env.step(np.zeros(2, np.float32))
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 0.5)
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    np.testing.assert_allclose(steps, 2 * 0.5 * np.sin(0.12))
    env.close()


def test_options_of_remastered_tasks_are_unknown_to_others():
    with pytest.raises(envs.EnvError, match="unknown toy/sphere option 'heldout'"):
        envs.make("toy", "sphere", heldout=True)
