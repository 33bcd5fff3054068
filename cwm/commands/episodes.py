"""Run episodes of a policy: returns, success and a video."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

import envs
from cwm.analysis.statistics import estimate, mean
from cwm.analysis.tables import number
from cwm.commands.trust import check_trusted
from cwm.config import load
from cwm.evaluate.baselines import random_policy
from cwm.infra.device import reseed, seed_from, set_up
from cwm.infra.errors import UserError, unknown
from cwm.infra.files import atomic_write
from cwm.infra.run_json import read_run
from cwm.models import AgentModel
from cwm.models import load as load_model
from cwm.train.environment import make
from cwm.train.policies import AgentPolicy
from cwm.train.rollout import Outcome, Policy, sum_up
from cwm.videos.encode import H264, encode

SIMPLE = ("random", "scripted")


class Episode(NamedTuple):
    """The seed of an episode's environment, and what came of it."""

    seed: int
    outcome: Outcome


def run_episodes(
    what: str,
    policy: str | None = None,
    episodes: int = 10,
    seed: int = 0,
    video: Path | None = None,
    sets: Sequence[str] = (),
    trust: bool = False,
) -> list[Episode]:
    """Run episodes of a policy; each is a function of `seed` and its number.

    Args:
        what: suite/task, or the folder of a fine-tuning run, whose task and settings are used.
        policy: `random`, `scripted`, or the weights.json of an agent. Default: the agent of the
            run, or for suite/task `random`.
        episodes: their number.
        seed: of the whole evaluation.
        video: a file, .mp4, for the first episode at the display size of the environment.
        sets: `key.path=value` words, applied over the settings.
        trust: run the code that the settings of a run name (`env.make`, `env.server`).

    Raises UserError for such code without `trust`, a folder without an agent, an unknown policy, a
    suite without a scripted policy, an agent for another action space, and another suffix of
    `video`.
    """
    if video is not None and video.suffix != ".mp4":
        raise UserError(f"{video} must end in .mp4")
    task, files = what, []
    if Path(what).is_dir():
        about = read_run(Path(what), "suite", "task")
        task, files = f"{about['suite']}/{about['task']}", [Path(what, "config.yaml")]
        policy = policy or str(Path(what, "weights.json"))
    policy = policy or "random"
    if policy not in SIMPLE and not policy.endswith(".json"):
        raise unknown("policy", policy, (*SIMPLE, "weights.json"))
    if policy not in SIMPLE and not files:
        files = [Path(policy).with_name("config.yaml")]
    if files:
        check_trusted(files[0], load(files).env, trust)
    cfg = load(files, sets if files else ("env.render=fast", *sets))
    # A GPU is claimed before the environment is created, because MuJoCo renders on it.
    model = None if policy in SIMPLE else _agent(Path(policy), set_up(cfg.runtime))
    env = make(task, cfg.env)
    try:
        actions = gymnasium.spaces.flatdim(env.action_space)
        if model is not None and model.action_dim != actions:
            trained = f"{model.about.get('suite')}/{model.about.get('task')}"
            raise UserError(
                f"the agent of {policy} was trained on {trained}, which has another action space"
            )
        new_policy = _policies(policy, model, env, task, actions)
        found = []
        for i in range(episodes):
            env_seed = seed_from(seed, "episode", i) >> 32
            reseed("episode", seed, i)
            outcome = _episode(env, new_policy(), env_seed, video is not None and i == 0)
            found.append(Episode(env_seed, outcome))
        rate = round(env.unwrapped.metadata["render_fps"] / cfg.env.action_repeat)
    finally:
        env.close()
    if video is not None:
        encode(video, found[0].outcome.frames, rate, H264)
    return found


def summary(episodes: Sequence[Episode]) -> list[str]:
    """Mean return and success with 95 % bootstrap intervals over episodes."""
    outcomes = [episode.outcome for episode in episodes]
    measures = {"return": [o.return_ for o in outcomes]}
    if outcomes[0].success is not None:
        measures["success"] = [float(o.success or 0) for o in outcomes]
    measures["steps"] = [o.length for o in outcomes]
    return [
        f"{name} {number(*estimate([np.array(values)], mean))}" for name, values in measures.items()
    ]


def write_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    """Write a CSV with the seed, return, success and length of each episode."""
    with atomic_write(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["episode", "seed", "return", "success", "length"])
        for i, (seed, outcome) in enumerate(episodes):
            success = "" if outcome.success is None else outcome.success
            writer.writerow([i, seed, outcome.return_, success, outcome.length])


def _agent(weights: Path, device: str) -> AgentModel:
    model = load_model(weights, device)
    if not isinstance(model, AgentModel):
        raise UserError(f"{weights} holds a model of kind {model.about['kind']}, not an agent")
    return model


def _policies(
    policy: str, model: AgentModel | None, env: gymnasium.Env, task: str, actions: int
) -> Callable[[], Policy]:
    """A function that makes the policy of one episode, with a fresh belief state."""
    if model is not None:
        return lambda: AgentPolicy(model.agent, explore=False)
    one = random_policy((actions,)) if policy == "random" else _scripted(env, task)
    return lambda: one


def _episode(env: gymnasium.Env, act: Policy, seed: int, film: bool) -> Outcome:
    image, _ = env.reset(seed=seed)
    frames: list[Any] = [env.render()] if film else []
    rewards: list[float] = []
    infos: list[dict[str, Any]] = []
    over = False
    while not over:
        (action,) = act(image[None], np.array([not rewards]))
        image, reward, terminated, truncated, info = env.step(action)
        if film:
            frames.append(env.render())
        rewards.append(float(reward))
        infos.append(info)
        over = terminated or truncated
    return sum_up(rewards, infos, frames)


def _scripted(env: gymnasium.Env, what: str) -> Policy:
    expert = getattr(env.unwrapped, "expert", None)
    if expert is None:
        classes = {suite: next(iter(tasks.values()))[0] for suite, tasks in envs.SUITES.items()}
        suites = [name for name, cls in classes.items() if hasattr(load_env_creator(cls), "expert")]
        raise UserError(f"no scripted policy for {what}; suites with one: {', '.join(suites)}")
    return lambda image, is_first: expert()[None]
