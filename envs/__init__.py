"""Environments to learn in: Gymnasium environments that are seen through 64x64 frames.

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
SUITES: dict[str, dict[str, tuple[str, dict[str, str]]]] = {
    "carla": {task: ("envs.carla:Carla", {"task": task}) for task in carla.TASKS},
    "dmc": {task: ("envs.dmc:ControlSuite", {"task": task}) for task in dmc.TASKS},
    "dmc-remastered": {
        task: ("envs.dmc_remastered:Remastered", {"task": task}) for task in dmc_remastered.TASKS
    },
    "driving": {task: ("envs.driving:Driving", {"task": task}) for task in driving.TASKS},
    "metaworld": {task: ("envs.metaworld:MetaWorld", {"task": task}) for task in metaworld.TASKS},
    "toy": {"blob": ("envs.blob:Blob", {}), "sphere": ("envs.sphere:Sphere", {})},
}
# Options of one suite only; its class explains them.
OPTIONS = {"carla": ("server",), "dmc-remastered": ("vary", "textures", "heldout")}

for _suite, _tasks in SUITES.items():
    for _task, (_entry_point, _arguments) in _tasks.items():
        gymnasium.register(f"cwm/{_suite}-{_task}", _entry_point, kwargs=_arguments)


def tasks(suite: str) -> list[str]:
    """The names of a suite's tasks; EnvError names the nearest suites if there is none such."""
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
    """Make an environment; observations are frames uint8 (64, 64, 3), actions lie in [-1, 1].

    `gymnasium.make_vec(id, vectorization_mode="async")` works by fork and by spawn where Mesa draws
    (OSMesa, or EGL without a GPU); if LP_NUM_THREADS gives Mesa threads, only by spawn.

    Every suite ends its own episodes after a number of control steps, whatever the action repeat:
    500 in Meta-world, 1,000 in the Control suite and in driving, 999 in CARLA, 15 and 20 in
    `toy/blob` and `toy/sphere`. An episode can be made shorter, not longer.

    Args:
        suite: one of SUITES.
        task: one of `tasks(suite)`.
        render: `fast`, or `reference` with shadows, reflections and multisampling.
        action_repeat: control steps per `step`.
        time_limit: truncate after this many calls of `step` (so control steps divided by
            `action_repeat`, as in the paper's code); 0 leaves the suite's own limit.
        render_mode: what `render` returns, as for `gymnasium.make`: a frame for people uint8
            (256, 256, 3) for None or `rgb_array`, the list of those since the last call for
            `rgb_array_list`; `human` opens a window and needs pygame.
        options: what only this suite can be told (OPTIONS).

    Raises:
        EnvError: an unknown suite, task, render, render_mode or option (naming the nearest), a
            number out of range, or a simulator, its server or an OpenGL that is not there.
    """
    if task not in tasks(suite):
        raise unknown(f"{suite} task", task, SUITES[suite])
    if time_limit < 0:
        raise EnvError(f"time_limit is {time_limit}; it must be 0 (the suite's own) or more")
    valid = {"render", "action_repeat", "time_limit", "render_mode", *OPTIONS.get(suite, ())}
    for name in options.keys() - valid:
        raise unknown(f"{suite} option", name, valid)
    return gymnasium.make(
        f"cwm/{suite}-{task}",
        max_episode_steps=time_limit or None,
        disable_env_checker=True,  # tests/envs/test_contract.py checks each once, not every step
        render=render,
        action_repeat=action_repeat,
        render_mode=render_mode,
        **options,
    )
