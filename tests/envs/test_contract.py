"""The contract of all environments, tested on every suite."""

import json
import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env

import envs

ENDS_EARLY = {"driving/clear-noon"}  # under random actions; test_driving.py reaches its time limit
# id: control steps of an episode; a body to lift, and the axis that points up in the frame.
# CARLA is a fake here; test_carla.py tests what this list leaves out.
ENVIRONMENTS = {
    "toy/blob": (15, None, 1),
    "toy/sphere": (20, "sphere", 1),
    "toy/sphere-remastered": (20, "sphere", 1),
    "toy/sphere-remastered-hard": (20, "sphere", 1),
    "toy/sphere-chase": (20, "sphere", 1),
    "dmc/cartpole-swingup": (1000, "cart", 2),
    "dmc/walker-walk": (1000, "torso", 2),
    "dmc-remastered/walker-run": (1000, "torso", 2),
    "dmc-remastered/cheetah-run": (1000, "torso", 2),
    "dmc-remastered/hopper-stand": (1000, "torso", 2),
    "driving/clear-noon": (1000, "piece-4", 2),
    "metaworld/reach": (500, "right_hand", 2),
    "metaworld/drawer-open": (500, "right_hand", 2),
    "metaworld/lever-pull": (500, "right_hand", 2),
    "carla/clear-noon": (None, None, None),
    "mine/line": (20, None, None),
    "gymnasium/reacher": (50, None, None),
}
# From outside the package: one that is observed by images, one that is rendered.
CAMERA = {
    "width": 96,
    "height": 96,
    "default_camera_config": {"lookat": [0, 0, 0], "distance": 0.6},
}
LINE = {"steps": 20, "pixels": "observation", "success": "is_success"}
EXTERNAL = {
    "mine/line": {"make": "own_envs:Line", "kwargs": LINE},
    "gymnasium/reacher": {"make": "Reacher-v5", "kwargs": CAMERA},
}
COSTS = {"distance", "centering", "collision", "steer"}
INFO = {"metaworld": {"success"}, "mine": {"success"}, "carla": COSTS, "driving": COSTS}

ONE_OF_EACH = list({name.partition("/")[0]: name for name in ENVIRONMENTS}.values())


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def name(request):
    return request.param


def instance(name):
    options = EXTERNAL.get(name, {})
    with pytest.MonkeyPatch.context() as patch:
        if name.startswith("carla/"):
            fake_carla = pytest.importorskip("fake_carla")  # needs the package: Linux on x86_64
            fake_carla.install(patch)
            options = {"server": envs.ServerConfig("fake {port}")}
        env = envs.make(*name.split("/"), **options)
        yield env
        env.close()
        env.close()  # idempotent


@pytest.fixture(scope="module")
def env(name):
    yield from instance(name)


@pytest.fixture(scope="module")
def other(name):
    """A second environment of the same name."""
    yield from instance(name)


def actions(env, steps, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape))


def episode(env, seed, steps=5):
    """Frames and rewards of the first steps of an episode."""
    frames, rewards = [env.reset(seed=seed)[0]], []
    for action in actions(env, steps, seed).astype(np.float32):
        frame, reward, *_ = env.step(action)
        frames.append(frame)
        rewards.append(reward)
    return np.array(frames), rewards


def equal(one, other):
    return np.array_equal(one[0], other[0]) and one[1] == other[1]


def test_gymnasium_checker_passes(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_close_check=True)


def test_spaces(env):
    assert env.observation_space == Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space == Box(-1, 1, env.action_space.shape, np.float32)
    assert env.action_space.shape[0] > 0


def test_step_returns_new_frame_and_finite_reward(env):
    frame, info = env.reset(seed=0)
    assert info == {}
    for action in actions(env, 10):
        before = frame
        frame, reward, terminated, truncated, info = env.step(action)
        assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8
        assert not np.shares_memory(frame, before)
        assert type(reward) is float and np.isfinite(reward)
        assert (terminated, truncated) == (False, False)


def test_frame_is_not_uniform(env):
    frame, _ = env.reset(seed=0)
    assert frame.std() > 5


def test_seed_determines_episode_regardless_of_history(env, other):
    first = episode(env, seed=1)
    episode(env, seed=2, steps=12)
    env.reset()
    assert equal(first, episode(env, seed=1))
    other.unwrapped.action_repeat = 1
    assert equal(first, episode(other, seed=1))


def test_different_seeds_give_different_episodes(env):
    assert len({episode(env, seed, 0)[0].tobytes() for seed in range(4)}) == 4


def test_unseeded_episodes_differ_and_follow_the_last_seed(env):
    def three():
        return [env.reset(seed=3)[0], env.reset()[0], env.reset()[0]]

    once, again = three(), three()
    assert np.array_equal(once, again)
    assert len({frame.tobytes() for frame in once}) == 3


def test_episode_is_truncated_at_the_suites_time_limit(name, other):
    if name in ENDS_EARLY:
        pytest.skip("random actions end its episodes early")
    limit, *_ = ENVIRONMENTS[name]
    if limit is None:
        pytest.skip("its episodes end early when the car stands still")
    other.unwrapped.action_repeat = limit // 5
    other.reset(seed=0)
    steps = [other.step(action) for action in actions(other, 5)]
    assert [step[2:4] for step in steps] == [(False, False)] * 4 + [(False, True)]
    assert np.isfinite([step[1] for step in steps]).all()
    with pytest.raises(envs.EnvError, match=r"call reset\(\)"):
        other.step(actions(other, 1)[0])


def test_action_repeat_equals_repeated_steps(env, other):
    action = actions(env, 1)[0]
    env.reset(seed=0)
    thrice = [env.step(action) for _ in range(3)]
    other.unwrapped.action_repeat = 3
    other.reset(seed=0)
    frame, reward, *_ = other.step(action)
    assert np.array_equal(frame, thrice[-1][0])
    assert reward == pytest.approx(sum(step[1] for step in thrice), abs=1e-12)


def test_info_holds_success_or_costs_of_the_suite(env, name):
    env.reset(seed=0)
    *_, info = env.step(actions(env, 1)[0])
    assert set(info) == INFO.get(name.partition("/")[0], set())
    assert all(type(value) is float and np.isfinite(value) for value in info.values())
    assert info.get("success", 0.0) == 0.0


RESIDENT = """
import ctypes, gc, json, resource, sys, envs

class Mallinfo(ctypes.Structure):  # man 3 mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo
env = envs.make(*sys.argv[1].split("/"), **json.loads(sys.argv[2]))
for episode in range(41):
    env.reset(seed=episode if episode % 4 else 0)  # measured in the same state
    env.step(0 * env.action_space.sample())
    if episode % 4 == 0:
        gc.collect()
        pages = int(open("/proc/self/statm").read().split()[1])
        heap = mallinfo()
        print(pages * resource.getpagesize(), heap.uordblks + heap.hblkhd)
env.close()
"""


@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH if not name.startswith("carla/")])
def test_memory_does_not_grow_with_episodes(name):
    """A leak of 10 kB per episode fails: less than one frame, a renderer or a simulation state.

    Runs in its own process, because memory freed by other tests would hide a leak. Resident memory
    does not show small leaks, which fit into free heap, so heap usage is measured too; Python's
    objects are allocated there (PYTHONMALLOC). Both are measured after every fourth episode, which
    has always the same seed, because usage depends on the scene (by 400 kB in `driving`). Between
    measurements sound suites grow by at most 5 kB, except for single jumps of OpenGL's buffers and
    of the heap, which the median ignores. The first 12 episodes fill caches and are not counted.
    """
    argv = [sys.executable, "-c", RESIDENT, name, json.dumps(EXTERNAL.get(name, {}))]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONMALLOC": "malloc", "PYTHONPATH": path}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    memory = np.array([line.split() for line in done.stdout.splitlines()], int)
    resident, in_use = np.median(np.diff(memory, axis=0)[3:], axis=0)
    assert resident < 4 * 10e3
    assert in_use < 4 * 10e3


@pytest.mark.parametrize(
    "spoil",
    [lambda a: a * np.nan, lambda a: a[:-1], lambda a: a + 1.5, lambda a: a * np.inf, str],
    ids=["nan", "short", "large", "infinite", "text"],
)
def test_invalid_action_raises(env, spoil):
    env.reset(seed=0)
    action = spoil(np.full(env.action_space.shape, 0.5))
    with pytest.raises(
        envs.EnvError, match=r"action .* is not \d+ finite numbers within \[-1, 1\]"
    ):
        env.step(action)


def test_frames_of_all_sizes_show_the_same_scene(env):
    env.reset(seed=0)
    small, large = env.unwrapped.frame(), env.unwrapped.frame(128, 192)
    assert large.shape == (128, 192, 3)
    assert env.render().shape == (256, 256, 3)
    # The height sets the scale, so the middle of the wide frame is the small one, enlarged twice.
    middle = large[:, 32:-32].reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(middle - small).mean() < 6


def test_frames_are_upright(env, name):
    """A body lifted in the world moves up in the frame."""
    _, thing, up = ENVIRONMENTS[name]
    if up is None:
        pytest.skip("the fake renders no scene, or the environment is not of this package")
    show = blob_at if thing is None else partial(body_at, thing=thing)
    env.reset(seed=0)
    low, high = (rows(*show(env.unwrapped, up=up, lift=lift)) for lift in (0, 0.2))
    assert high < low - 2  # rows are counted from the top


def blob_at(env, up, lift):
    env.position = np.array([5.0, 5.0])
    hidden = env.frame(256, 256)
    env.position = np.zeros(2)
    env.position[up] = lift
    return env.frame(256, 256), hidden


def body_at(env, thing, up, lift):
    """A frame that shows only this body, lifted, and a frame that shows nothing."""
    colours, places = env.model.geom_rgba.copy(), env.data.geom_xpos.copy()
    of_thing = env.model.geom_bodyid == env.model.body(thing).id
    env.data.geom_xpos[of_thing, up] += lift
    env.model.geom_rgba[~of_thing] = 0
    shown = env.frame(256, 256)
    env.model.geom_rgba[of_thing] = 0
    hidden = env.frame(256, 256)
    env.model.geom_rgba[:], env.data.geom_xpos[:] = colours, places
    return shown, hidden


def rows(shown, hidden):
    """Mean row of the pixels that differ."""
    differ = (shown != hidden).any(-1)
    assert differ.sum() > 20
    return np.nonzero(differ)[0].mean()
