"""Record one episode of one policy as a video."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

import envs
from cwm.agent import Agent
from cwm.config import Config, load
from cwm.evaluate.baselines import random_policy
from cwm.infra.checkpoint import load_weights
from cwm.infra.device import reseed, set_up
from cwm.infra.errors import UserError, unknown
from cwm.train.policies import AgentPolicy
from cwm.train.rollout import Outcome, Policy, make, sum_up
from cwm.videos.encode import H264, encode


def play(what: str, policy: str, seed: int, out: Path, sets: Sequence[str] = ()) -> Outcome:
    """Record an episode at the display size of the environment; returns its outcome.

    Args:
        what: suite/task.
        policy: `random`, `scripted`, or the weights.json of a fine-tuned run. The config.yaml
            beside a weights.json gives the settings.
        seed: of the episode.
        out: the video file, .mp4.
        sets: `key.path=value` words, applied over the settings.

    Raises UserError for another suffix, an unknown policy, a suite without a scripted policy, and
    weights of another kind of model or action space.
    """
    if out.suffix != ".mp4":
        raise UserError(f"{out} must end in .mp4")
    simple = ("random", "scripted")
    if policy in simple:
        cfg = load((), ("env.render=fast", *sets))
    elif policy.endswith(".json"):
        cfg = load((Path(policy).with_name("config.yaml"),), sets)
        device = set_up(cfg.runtime)  # before `make`: MuJoCo renders on this GPU
    else:
        raise unknown("policy", policy, (*simple, "weights.json"))
    env = make(what, cfg.env)
    try:
        reseed("play", seed)
        actions = gymnasium.spaces.flatdim(env.action_space)
        if policy in simple:
            act = random_policy((actions,)) if policy == "random" else _scripted(env, what)
        else:
            act = AgentPolicy(_agent(Path(policy), cfg, actions).to(device), explore=False)
        outcome = _episode(env, act, seed)
        rate = round(env.unwrapped.metadata["render_fps"] / cfg.env.action_repeat)
    finally:
        env.close()
    encode(out, outcome.frames, rate, H264)
    return outcome


def _episode(env: gymnasium.Env, act: Policy, seed: int) -> Outcome:
    image, _ = env.reset(seed=seed)
    frames: list[Any] = [env.render()]
    rewards: list[float] = []
    infos: list[dict[str, Any]] = []
    over = False
    while not over:
        (action,) = act(image[None], np.array([not rewards]))
        image, reward, terminated, truncated, info = env.step(action)
        frames.append(env.render())
        rewards.append(float(reward))
        infos.append(info)
        over = terminated or truncated
    return sum_up(rewards, infos, frames)


def _agent(weights: Path, cfg: Config, action_dim: int) -> Agent:
    tensors, about = load_weights(weights)
    if about.get("kind") != "agent":
        raise UserError(f"{weights} holds a model of kind {about.get('kind')}, not an agent")
    agent = Agent(cfg.model, cfg.finetune.agent, action_dim, cfg.runtime.precision)
    try:
        agent.load_state_dict(tensors)
    except RuntimeError:
        task = f"was trained on {about.get('suite')}/{about.get('task')}"
        raise UserError(f"the agent of {weights} {task}, which has another action space") from None
    return agent


def _scripted(env: gymnasium.Env, what: str) -> Policy:
    expert = getattr(env.unwrapped, "expert", None)
    if expert is None:
        classes = {suite: next(iter(tasks.values()))[0] for suite, tasks in envs.SUITES.items()}
        suites = [name for name, cls in classes.items() if hasattr(load_env_creator(cls), "expert")]
        raise UserError(f"no scripted policy for {what}; suites with one: {', '.join(suites)}")
    return lambda image, is_first: expert()[None]
