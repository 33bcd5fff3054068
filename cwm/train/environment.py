"""The environments of a run, made from its settings."""

from typing import Any, Literal, cast

import gymnasium
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from pydantic import ConfigDict, JsonValue, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

import envs
from cwm.infra.errors import UserError
from envs import vector
from envs.visual_factors import Factor

VectorEnvs = SyncVectorEnv | AsyncVectorEnv  # `reset` of VectorEnv itself takes no list of seeds


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EnvConfig:
    """How environments are rendered and stepped."""

    render: Literal["reference", "fast"] = "reference"  # fast: no shadows, reflections, smoothing
    action_repeat: PositiveInt = 1  # control steps for each action
    time_limit: NonNegativeInt = 0  # agent steps; 0: the suite's own
    processes: bool = False  # each evaluation environment in a process of its own
    # From outside this package: MODULE:FACTORY or a Gymnasium id; docs/own-environment.md
    make: str | None = None
    kwargs: dict[str, JsonValue] | None = None  # of the factory or of `gymnasium.make`
    server: envs.ServerConfig | None = None  # CARLA only; not part of the run key
    # DMC Remastered only
    vary: tuple[Factor, ...] | None = None  # factors that vary between episodes; null: all seven
    textures: str | None = None  # folder with the original skies/ and floors/; null: procedural
    heldout: bool = False  # evaluate with visual factors that training never has


def make(what: str, cfg: EnvConfig) -> gymnasium.Env:
    """The training environment of `suite/task`."""
    return envs.make(*suite_and_task(what), **_options(cfg))


def make_vector(what: str, cfg: EnvConfig, count: int) -> VectorEnvs:
    """`count` evaluation environments of `suite/task`."""
    options = _options(cfg) | ({"heldout": True} if cfg.heldout else {})
    suite, task = suite_and_task(what)
    return cast(VectorEnvs, vector.make(suite, task, count, cfg.processes, **options))


def suite_and_task(what: str) -> tuple[str, str]:
    """The two names in `suite/task`; UserError if there are not two."""
    suite, _, task = what.partition("/")
    if not (suite and task) or "/" in task or ":" in what:
        raise UserError(
            f"{what!r} is not SUITE/TASK, such as toy/sphere; for an environment from outside this"
            " package choose a name, such as mine/walk, and --set env.make=MODULE:FACTORY"
        )
    return suite, task


def _options(cfg: EnvConfig) -> dict[str, Any]:
    options = {name: getattr(cfg, name) for name in ("render", "action_repeat", "time_limit")}
    # `heldout` is for evaluation only; `make_vector` sets it.
    names = {name for suite in envs.OPTIONS.values() for name in suite} - {"heldout"}
    names |= {"make", "kwargs"}
    own = {name: getattr(cfg, name) for name in sorted(names)}
    return options | {name: value for name, value in own.items() if value is not None}
