"""`envs.make`: ids, options, processes, OpenGL, error messages."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import load_env_creator

import envs
from envs import vector
from envs.rendering import load

IDS = [name for name in gymnasium.registry if name.startswith("cwm/")]


def python(code, **environment):
    """Standard output and error of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    return done.stdout.strip(), done.stderr.strip()


@pytest.fixture
def bare():
    """This process's environment variables without those that select OpenGL."""
    chosen = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "LP_NUM_THREADS")
    return {k: v for k, v in os.environ.items() if k not in chosen}


def test_every_id_resolves():
    assert len(IDS) == 50 + 49 + 22 + 15 + 15 + 5
    for name in IDS:
        spec = gymnasium.spec(name)
        assert callable(load_env_creator(spec.entry_point))
    named = {f"cwm/{suite}-{task}" for suite in envs.SUITES for task in envs.tasks(suite)}
    assert named == set(IDS)


def test_every_task_of_the_packages_has_an_id():
    from dm_control import suite
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert {f"{task}-v3" for task in envs.tasks("metaworld")} == set(ALL_V3_ENVIRONMENTS)
    bounded = {pair for pair in suite.ALL_TASKS if pair[0] != "lqr"}
    assert set(envs.dmc.TASKS.values()) == bounded


def test_gymnasium_make_gives_the_same_environment():
    one, other = envs.make("toy", "sphere"), gymnasium.make("cwm/toy-sphere")
    assert np.array_equal(one.reset(seed=0)[0], other.reset(seed=0)[0])
    one.close()
    other.close()


@pytest.mark.parametrize("mode", [None, "rgb_array"])
def test_render_mode_rgb_array_gives_large_frames(mode):
    one = envs.make("toy", "blob", render_mode=mode)
    several = vector.make("toy", "blob", 2, render_mode=mode)
    one.reset(seed=1)
    several.reset(seed=[0, 1])
    assert one.render_mode == several.render_mode == mode
    assert np.array_equal(one.render(), several.render()[1])
    assert one.render().shape == (256, 256, 3)


def test_render_mode_rgb_array_list_gives_all_frames():
    env = envs.make("toy", "blob", render_mode="rgb_array_list")
    env.reset(seed=0)
    env.step(np.zeros(2))
    assert [frame.shape for frame in env.render()] == [(256, 256, 3)] * 2


def test_time_limit_counts_calls_of_step():
    env = envs.make("toy", "blob", action_repeat=2, time_limit=3)
    env.reset(seed=0)
    assert [env.step(np.zeros(2))[3] for _ in range(3)] == [False, False, True]


def test_spawned_processes_give_the_same_frames():
    makers = [lambda: envs.make("toy", "sphere")] * 2
    vector = gymnasium.vector.AsyncVectorEnv(makers, context="spawn")
    frames, _ = vector.reset(seed=0)
    alone = envs.make("toy", "sphere")
    for seed in range(2):  # gymnasium seeds them with consecutive numbers
        assert np.array_equal(frames[seed], alone.reset(seed=seed)[0])
    vector.close()
    alone.close()


FORK = """
import envs, gymnasium
alone = envs.make("toy", "sphere")
before = [alone.reset(seed=seed)[0] for seed in (3, 4)]
several = gymnasium.make_vec(
    "cwm/toy-sphere", 2, vectorization_mode="async", vector_kwargs={"context": "fork"}
)
frames, _ = several.reset(seed=3)
several.step(several.action_space.sample())
several.close()
print((frames == before).all())
"""


def test_forked_processes_render_after_the_parent_did(bare):
    assert python(FORK, **bare) == ("True", "")


def test_fork_with_opengl_threads_raises(bare):
    stdout, stderr = python(FORK, **bare | {"MUJOCO_GL": "osmesa", "LP_NUM_THREADS": "2"})
    lines = (line for line in stderr.splitlines() if line.startswith("envs.errors.EnvError"))
    (line,) = set(lines)
    assert stdout == ""
    assert line.endswith('; start processes with context="spawn", or set LP_NUM_THREADS=0')


def test_importing_envs_imports_no_simulator(bare):
    heavy = {"mujoco", "metaworld", "dm_control", "carla", "torch"}
    code = f"import envs, sys; print(*{heavy} & set(sys.modules))"
    assert python(code, **bare) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("metawrld", "reach"), {}, "unknown suite 'metawrld'; did you mean: metaworld"),
        (("metaworld", "draw-open"), {}, "metaworld task 'draw-open'; did you mean: drawer-open,"),
        (("dmc", "walker_walk"), {}, "dmc task 'walker_walk'; did you mean: walker-walk,"),
        (("toy", "blob"), {"render": "quick"}, "unknown render 'quick'; did you mean: fast, ref"),
        (("toy", "blob"), {"render_mode": "rgb"}, "unknown render_mode 'rgb'; did you mean: rgb_a"),
        (("toy", "blob"), {"action_repeat": 0}, "action_repeat is 0; it must be 1 or more"),
        (
            ("toy", "blob"),
            {"vary": ["bg"]},
            "unknown toy/blob option 'vary'; did you mean: action_repeat",
        ),
        (("toy", "blob"), {"time_limit": -1}, "time_limit is -1; it must be 0"),
        (
            ("toy", "blob"),
            {"server": envs.ServerConfig("{port}")},
            "unknown toy/blob option 'server'",
        ),
        (("carla", "ClearNoon"), {}, "carla task 'ClearNoon'; did you mean: clear-noon,"),
    ],
)
def test_invalid_arguments_raise(arguments, options, message):
    with pytest.raises(envs.EnvError) as error:
        envs.make(*arguments, **options)
    assert message in str(error.value)
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("suite", "task", "package", "extra"),
    [
        ("metaworld", "reach", "metaworld", "sim"),
        ("dmc", "walker-walk", "dm_control", "sim"),
        ("carla", "clear-noon", "carla", "carla"),
    ],
)
def test_missing_simulator_raises_with_pip_command(monkeypatch, suite, task, package, extra):
    monkeypatch.setitem(sys.modules, package, None)  # Python treats it as not installed
    with pytest.raises(envs.EnvError) as error:
        envs.make(suite, task)
    assert str(error.value) == f"no module '{package}': pip install 'contextwm[{extra}]'"


@pytest.mark.parametrize(
    ("system", "said", "chosen"),
    [
        ("linux", None, "osmesa"),
        ("linux", "EGL", "egl"),
        ("darwin", None, None),
        ("darwin", "CGL", "cgl"),
    ],
)
def test_opengl_is_chosen_by_the_system(monkeypatch, system, said, chosen):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))  # no NVIDIA GPU
    monkeypatch.setattr(os, "environ", {} if said is None else {"MUJOCO_GL": said})
    load("math")  # any module
    assert os.environ.get("MUJOCO_GL") == chosen


HIDE = """
import ctypes
real = ctypes.CDLL.__init__
def blind(self, name, *rest, **options):
    if {library!r} in str(name):
        raise OSError(name)
    real(self, name, *rest, **options)
ctypes.CDLL.__init__ = blind
"""
TRY = """
import envs
try:
    env = envs.make('toy', 'sphere')
except envs.EnvError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("chosen", "library", "cure"),
    [
        ("osmesa", "OSMesa", "apt-get install libosmesa6"),
        ("egl", "EGL", "apt-get install libegl1 libopengl0 libgl1"),
        ("glfw", "X11", "unset MUJOCO_GL, or set it to osmesa or egl"),
        ("banana", "X11", "unset MUJOCO_GL, or set it to osmesa or egl"),
    ],
)
def test_missing_opengl_raises_with_remedy(bare, chosen, library, cure):
    bare |= {"MUJOCO_GL": chosen, "DISPLAY": ""}
    stdout, _ = python(HIDE.format(library=library) + TRY, **bare)
    assert stdout.startswith(f"MuJoCo cannot draw with MUJOCO_GL={chosen} (")
    assert cure in stdout and "\n" not in stdout


@pytest.mark.parametrize("name", ["'toy', 'sphere'", "'dmc', 'walker-walk'"])
@pytest.mark.parametrize(
    ("variables", "before", "problem"),
    [
        ({"MUJOCO_GL": "OSMESA"}, "", ""),
        ({"MUJOCO_GL": " OSMesa ", "PYOPENGL_PLATFORM": " OSMESA"}, "", ""),
        (
            {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "egl"},
            "",
            "MUJOCO_GL=osmesa (PYOPENGL_PLATFORM is 'egl'); unset PYOPENGL_PLATFORM, or set it to"
            " osmesa",
        ),
        (
            {"MUJOCO_GL": "EGL", "PYOPENGL_PLATFORM": "glx"},
            "",
            "MUJOCO_GL=egl (PYOPENGL_PLATFORM is 'glx'); unset PYOPENGL_PLATFORM, or set it to egl",
        ),
        (
            {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "first"},
            "",
            "MUJOCO_GL=egl (MUJOCO_EGL_DEVICE_ID is 'first'); unset MUJOCO_EGL_DEVICE_ID, or set it"
            " to the number of a device",
        ),
        (
            {"MUJOCO_GL": "osmesa"},
            "from OpenGL import GL",
            "MUJOCO_GL=osmesa ('GLXPlatform' object has no attribute 'OSMesa'); set"
            " PYOPENGL_PLATFORM=osmesa before the program imports OpenGL",
        ),
    ],
    ids=["upper case", "mixed case", "osmesa and egl", "egl and glx", "no device", "imported"],
)
def test_invalid_opengl_variables_raise(bare, name, variables, before, problem):
    expected = problem and f"MuJoCo cannot draw with {problem}"
    code = f"{before}\n{TRY}".replace("'toy', 'sphere'", name)
    assert python(code, **bare | variables) == (expected, "")


def test_value_rejected_only_by_dm_control_raises(bare):
    code = TRY.replace("'toy', 'sphere'", "'dmc', 'walker-walk'")
    stdout, stderr = python(code, **bare | {"MUJOCO_GL": "glx", "DISPLAY": ""})
    assert stdout.startswith("MuJoCo cannot draw with MUJOCO_GL=glx (") and stderr == ""
    assert stdout.endswith("); unset MUJOCO_GL, or set it to osmesa or egl")


def test_works_after_mujoco_was_imported(bare):
    """Without MUJOCO_GL, mujoco then selects an OpenGL that needs a display."""
    assert python(f"import mujoco\n{TRY}env.close()", **bare | {"DISPLAY": ""}) == ("", "")


@pytest.mark.parametrize(
    ("name", "last"),
    [("'dmc', 'walker-walk'", "env.close(); env.close()"), ("'toy', 'sphere'", "pass")],
    ids=["closed", "left open"],
)
def test_exit_prints_nothing(bare, name, last):
    code = f"import envs\nenv = envs.make({name}); env.reset(); {last}"
    assert python(code, **bare) == ("", "")
