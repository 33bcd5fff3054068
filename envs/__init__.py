"""Gymnasium environments whose observations are frames of 64x64 pixels.

    import envs
    env = envs.make("metaworld", "drawer-open")
    env = gymnasium.make("cwm/metaworld-drawer-open")  # the same
    env = envs.make("mine", "walk", make="my_package.envs:make_walk")  # not of this package

Importing this package registers every id and imports no simulator.
"""

import re
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from envs import carla, dmc, dmc_remastered, driving, metaworld
from envs.carla_server import ServerConfig
from envs.errors import EnvError, unknown

__all__ = ["SUITES", "EnvError", "ServerConfig", "make", "tasks"]

# suite -> task -> entry point and its arguments
SUITES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "carla": {task: ("envs.carla:Carla", {"task": task}) for task in carla.TASKS},
    "dmc": {task: ("envs.dmc:ControlSuite", {"task": task}) for task in dmc.TASKS},
    "dmc-remastered": {
        task: ("envs.dmc_remastered:Remastered", {"task": task}) for task in dmc_remastered.TASKS
    },
    "driving": {task: ("envs.driving:Driving", {"task": task}) for task in driving.TASKS},
    "metaworld": {task: ("envs.metaworld:MetaWorld", {"task": task}) for task in metaworld.TASKS},
    "toy": {
        "blob": ("envs.blob:Blob", {}),
        "sphere": ("envs.sphere:Sphere", {}),
        "sphere-remastered": ("envs.sphere_remastered:RemasteredSphere", {}),
        "sphere-remastered-hard": (
            "envs.sphere_remastered:RemasteredSphere",
            {"level": "everything"},
        ),
        "sphere-chase": ("envs.sphere_remastered:RemasteredSphere", {"chase": True}),
    },
}
# Options of single suites and tasks; their classes describe them.
OPTIONS: dict[str, tuple[str, ...]] = {
    "carla": ("server",),
    "dmc-remastered": ("vary", "textures", "heldout"),
    "toy/sphere-remastered": ("heldout",),
    "toy/sphere-remastered-hard": ("heldout",),
    "toy/sphere-chase": ("heldout",),
}

for _suite, _tasks in SUITES.items():
    for _task, (_entry_point, _arguments) in _tasks.items():
        gymnasium.register(f"cwm/{_suite}-{_task}", _entry_point, kwargs=_arguments)


def tasks(suite: str) -> list[str]:
    """The task names of a suite, sorted. An unknown suite raises EnvError."""
    if suite not in SUITES:
        hint = "An environment from outside this package needs env.make"
        raise EnvError(f"{unknown('suite', suite, SUITES)} {hint}")
    return sorted(SUITES[suite])


def make(
    suite: str,
    task: str,
    *,
    make: str | None = None,
    render: str = "fast",
    action_repeat: int = 1,
    time_limit: int = 0,
    render_mode: str | None = None,
    **options: Any,
) -> gymnasium.Env:
    """Make an environment: frames uint8 (64, 64, 3), actions float32 in [-1, 1].

    With Mesa (OSMesa, or EGL without a GPU), `gymnasium.make_vec(id, vectorization_mode="async")`
    works with fork and spawn; if LP_NUM_THREADS gives Mesa threads, only with spawn.

    Each suite truncates episodes after a number of control steps, independent of `action_repeat`:
    500 in Meta-world, 1,000 in the Control suite and driving, 999 in CARLA, 15 in `toy/blob`, 20 in
    the other toy tasks. `time_limit` can only shorten them.

    Args:
        suite: one of SUITES; with `make`, any plain name.
        task: one of `tasks(suite)`; with `make`, any other plain name.
        make: an environment from outside this package, see `envs.external`. It ends its episodes
            itself, or `time_limit` does.
        render: `fast`, or `reference` with shadows, reflections and multisampling.
        action_repeat: control steps per `step`.
        time_limit: truncate after this many calls of `step` (that is, of `action_repeat` control
            steps, as in the paper's code); 0 keeps the suite's limit.
        render_mode: what `render` returns. None and `rgb_array`: a frame uint8 (256, 256, 3).
            `rgb_array_list`: all frames since the last call. `human`: opens a window, needs pygame.
        options: options of this suite or task (OPTIONS); with `make`, `kwargs` of its factory.

    Raises:
        EnvError: an unknown suite, task, render, render_mode or option, a number out of range, or a
            simulator, server or OpenGL that is missing; with `make`, see `envs.external`.
    """
    what: str | EnvSpec = f"cwm/{suite}-{task}"
    valid = {"make", "render", "action_repeat", "time_limit", "render_mode"}
    if make is None:
        if task not in tasks(suite):
            raise unknown(f"{suite} task", task, SUITES[suite])
        valid |= {*OPTIONS.get(suite, ()), *OPTIONS.get(f"{suite}/{task}", ())}
    else:
        what = _external(suite, task, make, time_limit > 0)
        valid |= {"kwargs"}
    if time_limit < 0:
        raise EnvError(f"time_limit is {time_limit}; it must be 0 (the suite's limit) or more")
    for name in options.keys() - valid:
        raise unknown(f"{suite}/{task} option", name, valid)
    return gymnasium.make(
        what,
        max_episode_steps=time_limit or None,
        disable_env_checker=True,  # slow; tests/envs/test_contract.py runs it once
        render=render,
        action_repeat=action_repeat,
        render_mode=render_mode,
        **options,
    )


def _external(suite: str, task: str, make: str, limited: bool) -> EnvSpec:
    """The environment `make` under a name of the user's."""
    if task in SUITES.get(suite, ()):
        raise EnvError(f"{suite}/{task} is a task of this package; give {make} another name")
    if not re.fullmatch("[a-z0-9-]+/[a-z0-9-]+", f"{suite}/{task}"):
        raise EnvError(
            f"{suite}/{task} is not a name for {make}; use small letters, digits and hyphens,"
            " such as mine/walk"
        )
    kwargs = {"make": make, "limited": limited}
    return EnvSpec(f"cwm/{suite}-{task}", "envs.external:External", kwargs=kwargs)
