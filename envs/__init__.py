"""Gymnasium environments whose observations are frames of 64x64 pixels.

    import envs
    env = envs.make("metaworld", "drawer-open")
    env = gymnasium.make("cwm/metaworld-drawer-open")  # the same

Importing this package registers every id and imports no simulator.
"""

from typing import Any

import gymnasium

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
        raise unknown("suite", suite, SUITES)
    return sorted(SUITES[suite])


def make(
    suite: str,
    task: str,
    *,
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
        suite: one of SUITES.
        task: one of `tasks(suite)`.
        render: `fast`, or `reference` with shadows, reflections and multisampling.
        action_repeat: control steps per `step`.
        time_limit: truncate after this many calls of `step` (that is, of `action_repeat` control
            steps, as in the paper's code); 0 keeps the suite's limit.
        render_mode: what `render` returns. None and `rgb_array`: a frame uint8 (256, 256, 3).
            `rgb_array_list`: all frames since the last call. `human`: opens a window, needs pygame.
        options: options of this suite or task (OPTIONS).

    Raises:
        EnvError: an unknown suite, task, render, render_mode or option, a number out of range, or a
            simulator, server or OpenGL that is missing.
    """
    if task not in tasks(suite):
        raise unknown(f"{suite} task", task, SUITES[suite])
    if time_limit < 0:
        raise EnvError(f"time_limit is {time_limit}; it must be 0 (the suite's limit) or more")
    valid = {"render", "action_repeat", "time_limit", "render_mode"}
    valid |= {*OPTIONS.get(suite, ()), *OPTIONS.get(f"{suite}/{task}", ())}
    for name in options.keys() - valid:
        raise unknown(f"{suite}/{task} option", name, valid)
    return gymnasium.make(
        f"cwm/{suite}-{task}",
        max_episode_steps=time_limit or None,
        disable_env_checker=True,  # slow; tests/envs/test_contract.py runs it once
        render=render,
        action_repeat=action_repeat,
        render_mode=render_mode,
        **options,
    )
