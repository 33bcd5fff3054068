"""Environments from outside this package: actions, frames, success, names, mistakes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import envs
from envs import external, vector
from envs.external import resize

LINE = "own_envs:Line"


def line(make=LINE, action_repeat=1, time_limit=0, **kwargs):
    options = {"action_repeat": action_repeat, "time_limit": time_limit}
    return envs.make("mine", "line", make=make, kwargs=kwargs, **options)


def play(env, steps=6):
    """Rewards, ends and infos of an episode with actions of 1."""
    env.reset(seed=0)
    found = [env.step(np.ones(env.action_space.shape, np.float32)) for _ in range(steps)]
    return [step[1] for step in found], [step[2:4] for step in found], [step[4] for step in found]


def test_resize_averages_areas_and_pads_the_sides():
    image = np.array([[[0, 30, 60]], [[30, 60, 90]], [[90, 120, 240]]], np.uint8)  # (3, 1, 3)
    # Rows of 1.5 pixels: (0 + 30 / 2) / 1.5 = 10, (30 / 2 + 90) / 1.5 = 70, ...
    halved = [[10, 40, 70], [70, 100, 190]]
    assert resize(image, 2, 2).tolist() == [[row, row] for row in halved]
    assert resize(image, 2, 4).tolist() == [[[0] * 3, row, row, [0] * 3] for row in halved]
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert np.array_equal(resize(pixels, 64, 64), pixels)


@pytest.mark.parametrize(
    ("actions", "low", "middle", "high"),
    [("box", 0, 5, 10), ("odd", [0.1, -3], [0.2, -0.2], [0.3, 2.6]), ("matrix", -2, 0, 2)],
)
def test_actions_are_rescaled_to_the_bounds(actions, low, middle, high):
    env = line(actions=actions)
    env.reset(seed=0)
    original = env.unwrapped.original.unwrapped
    for value, expected in ((-1, low), (0, middle), (1, high)):
        env.step(np.full(env.action_space.shape, value, np.float32))
        assert original.action == pytest.approx(np.broadcast_to(expected, original.action.shape))
        assert original.action_space.contains(original.action)
    assert env.action_space.shape == {"box": (1,), "odd": (2,), "matrix": (6,)}[actions]


def test_frames_are_images_observed_or_rendered():
    seen = [line(pixels=pixels) for pixels in ("observation", "render")]
    for env in seen:
        frame, _ = env.reset(seed=3)
        picture = env.unwrapped.original.unwrapped.picture()
        assert np.array_equal(frame, resize(picture, 64, 64))
        assert env.render().shape == (256, 256, 3)
    unrendered = line(make="own_envs:make_line", pixels="observation")
    assert np.array_equal(unrendered.reset(seed=3)[0], frame)
    assert unrendered.unwrapped.original.render_mode is None


@pytest.mark.parametrize("make", [LINE, "own_envs:make_line", "own_envs:own/Line-v0"])
def test_a_class_a_function_and_an_id_give_the_same_environment(make):
    env = line(make=make, render_mode="rgb_array", height=70)
    expected = line(height=70)
    assert np.array_equal(env.reset(seed=1)[0], expected.reset(seed=1)[0])
    assert env.unwrapped.limited == (make == "own_envs:own/Line-v0")
    assert env.unwrapped.metadata["render_fps"] == 4


def test_rewards_of_repeated_actions_are_summed_until_the_end():
    assert play(line(), 6) == ([10.0] * 6, [(False, False)] * 5 + [(False, True)], [{}] * 6)
    rewards, ends, _ = play(line(action_repeat=4), 2)
    assert (rewards, ends) == ([40.0, 20.0], [(False, False), (False, True)])


def test_time_limit_ends_an_endless_environment():
    _, ends, _ = play(line(steps=0, time_limit=3), 3)
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("name", ["success", "is_success"])
def test_success_is_kept_under_one_name(name):
    *_, infos = play(line(success=name))
    assert infos == [{"success": value} for value in (0, 1, 0, 0, 0, 0)]
    *_, infos = play(line(success=name, action_repeat=3), 2)
    assert infos == [{"success": 1.0}, {"success": 0.0}]


def test_processes_make_it_too():
    pair = vector.make(
        "mine", "line", 2, processes=True, make=LINE, kwargs={"success": "is_success"}
    )
    frames, _ = pair.reset(seed=[0, 1])
    alone = line()
    assert [np.array_equal(frames[i], alone.reset(seed=i)[0]) for i in (0, 1)] == [True, True]
    *_, infos = pair.step(np.zeros((2, 1)))
    assert infos["success"].tolist() == [0, 0]
    pair.close()


BOX = "they must be a Box of floats with finite bounds, each low < high"


@pytest.mark.parametrize(
    ("make", "kwargs", "message"),
    [
        (LINE, {"actions": "discrete"}, f"{LINE}: actions are Discrete(3); {BOX}"),
        (LINE, {"actions": "dict"}, "actions are Dict('push': Box(-1.0, 1.0, (2,), float32)); "),
        (LINE, {"actions": "tuple"}, "actions are Tuple(Box(-1.0, 1.0, (2,), float32)); they"),
        (LINE, {"actions": "unbounded"}, "actions are Box(-inf, inf, (2,), float32); they must"),
        (LINE, {"actions": "empty"}, "actions are Box(0.0, 0.0, (2,), float32); they must be"),
        (LINE, {"actions": "integers"}, "actions are Box(0, 255, (2,), uint8); they must be"),
        (
            "own_envs:make_line",
            {},
            "observations are Box(-1.0, 1.0, (1,), float32), not a Box of uint8 (H, W, 3), and"
            " render_mode is None; give one of the two, the latter by --set"
            " env.kwargs.render_mode=rgb_array",
        ),
        (LINE, {"stepz": 1}, "got an unexpected keyword argument 'stepz'"),
        (LINE, {"fault": "construct"}, f"{LINE}: construction failed with KeyError: 'map' (/"),
        ("own_envs:make_nothing", {}, "own_envs:make_nothing returned a NoneType, not a gymnas"),
        ("own_envs:make_lin", {}, "factory in own_envs 'make_lin'; did you mean: make_line"),
        ("own_envs:number", {}, "unknown factory in own_envs 'number'; the module has Line, make"),
        ("own_env:Line", {}, "unknown module 'own_env'; did you mean: own_envs,"),
        ("envs.own:Line", {}, "unknown module 'envs.own'; did you mean: envs."),
        ("zzqqxx:Line", {}, "'zzqqxx'; install it, or add its folder to PYTHONPATH"),
        ("Pusherr-v5", {}, "unknown Gymnasium id 'Pusherr-v5'; did you mean: Pusher-v5"),
        ("Pusher", {}, "unknown Gymnasium id 'Pusher'; did you mean: Pusher-v5"),
        ("zzqqxx/Walk-v0", {}, "'zzqqxx/Walk-v0'; if a package registers it, write PACKAGE:zzqqx"),
        (":Line", {}, "env.make is ':Line'; it must be MODULE:FACTORY, such as my_package.envs:"),
        ("", {}, "env.make is ''; it must be MODULE:FACTORY"),
        (".own_envs:Line", {}, "env.make is '.own_envs:Line'; it must be MODULE:FACTORY"),
    ],
)
def test_an_environment_that_cannot_be_used_raises(make, kwargs, message):
    with pytest.raises(envs.EnvError) as error:
        line(make, **kwargs)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fault": "nan"}, "the reward of step 3 is nan; rewards must be finite numbers"),
        ({"fault": "size"}, "a frame has 49x96 pixels after one of 48x96; all frames must have"),
        ({"fault": "float"}, "a frame is float64 (48, 96, 3); it must be uint8 (H, W, 3)"),
        ({"fault": "list"}, "a frame is list; it must be uint8 (H, W, 3)"),
        ({"fault": "raise"}, "step failed with ZeroDivisionError: no map ("),
        (
            {"fault": "late", "success": "success"},
            "info has success in some steps only (step 3); give it in every step, or never",
        ),
    ],
)
def test_an_environment_that_fails_in_an_episode_raises(kwargs, message):
    with pytest.raises(envs.EnvError) as error:
        play(line(**kwargs))
    assert str(error.value).startswith(f"{LINE}: {message}")


def test_an_endless_episode_raises(monkeypatch):
    monkeypatch.setattr(external, "LONGEST", 9)
    with pytest.raises(envs.EnvError, match=r"not end within 9 control steps; set env\.time_limit"):
        play(line(steps=0), 10)
    play(line(steps=0, time_limit=20), 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("toy/sphere", {}, "toy/sphere is a task of this package; give own_envs:Line another name"),
        ("mine/Line", {}, "mine/Line is not a name for own_envs:Line; use small letters, digits"),
        ("mine/line", {"vary": ["bg"]}, "unknown mine/line option 'vary'"),
        ("mine/line", {"make": None}, "env.make"),
    ],
)
def test_a_name_or_option_that_is_not_possible_raises(name, options, message):
    with pytest.raises(envs.EnvError) as error:
        envs.make(*name.split("/"), **{"make": LINE, **options})
    assert message in str(error.value)


def test_a_package_that_a_module_needs_is_named(tmp_path, monkeypatch):
    (tmp_path / "needy_envs.py").write_text("import zzqqxx")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(envs.EnvError, match="needy_envs needs the module 'zzqqxx', which is no"):
        line("needy_envs:Line")


def test_opengl_is_chosen_before_the_module_is_imported(tmp_path):
    (tmp_path / "early_envs.py").write_text("import os; raise OSError(os.environ['MUJOCO_GL'])")
    code = "import envs; envs.make('mine', 'line', make='early_envs:Line')"
    paths = f"{Path(__file__).parents[2]}:{tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": paths}
    )
    assert "import failed with OSError: " in done.stderr
    assert done.stderr.split("OSError: ")[-1].split()[0] in ("osmesa", "egl")
