"""Baseline scores without learning: random, constant and untrained policies."""

import csv
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from cwm.agent import Agent
from cwm.infra.device import reseed, seed_from, set_up
from cwm.infra.run_dir import RunDir
from cwm.settings import AgentConfig, BaselinesConfig, ModelConfig, RuntimeConfig
from cwm.train.environment import EnvConfig, make_vector
from cwm.train.policies import AgentPolicy
from cwm.train.rollout import Outcome, Policy, action_shape, evaluate


def baselines(
    runtime: RuntimeConfig,
    model: ModelConfig,
    env: EnvConfig,
    agent: AgentConfig,
    cfg: BaselinesConfig,
    run: RunDir,
) -> None:
    """Write `scores.csv`: policy, seed, episode, return, success, length."""
    device = set_up(runtime)
    environments = make_vector(run.spec.what, env, cfg.envs)
    shape = action_shape(environments.single_action_space)
    (action_dim,) = shape

    def play(name: str, policy: Callable[[], Policy], episodes: int) -> list[Outcome]:
        seeds = [seed_from(name, i) for i in range(episodes)]
        return list(evaluate(environments, policy, seeds))

    random = random_policy(shape)
    rows = [("random", 0, o) for o in play("random", lambda: random, cfg.episodes)]
    if cfg.trials:

        def trial(action: np.ndarray) -> float:
            outcomes = play("trial", lambda: constant(action), cfg.trials)
            return float(np.mean([o.return_ for o in outcomes]))

        best = constant(max(constant_actions(action_dim), key=trial))
        rows += [("constant", 0, o) for o in play("constant", lambda: best, cfg.episodes)]
    for seed in range(cfg.untrained):
        reseed("untrained", seed)
        untrained = Agent(model, agent, action_dim, runtime.precision).to(device)
        outcomes = play("untrained", partial(AgentPolicy, untrained, explore=False), cfg.episodes)
        rows += [("untrained", seed, o) for o in outcomes]
    environments.close()
    write_scores(run.folder / "scores.csv", rows)
    run.publish("scores.csv")


def random_policy(shape: tuple[int, ...]) -> Policy:
    """Policy with uniform actions in [-1, 1]."""
    rng = np.random.default_rng(0)

    def act(image: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        return rng.uniform(-1, 1, (len(image), *shape)).astype(np.float32)

    return act


def constant(action: np.ndarray) -> Policy:
    """Policy that always takes the same action (A,)."""
    return lambda image, is_first: np.tile(action, (len(image), 1))


def constant_actions(action_dim: int) -> Iterator[np.ndarray]:
    """All of {-1, 0, 1}^A if A <= 3, else zero and the positive and negative unit vectors."""
    if action_dim <= 3:
        grid = itertools.product((-1, 0, 1), repeat=action_dim)
        yield from (np.array(action, np.float32) for action in grid)
        return
    yield np.zeros(action_dim, np.float32)
    for axis in np.eye(action_dim, dtype=np.float32):
        yield from (axis, -axis)


def write_scores(path: Path, rows: list[tuple[str, int, Outcome]]) -> None:
    """Write one row for each episode of each policy."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["policy", "seed", "episode", "return", "success", "length"])
        for episode, (policy, seed, o) in enumerate(rows):
            success = "" if o.success is None else o.success
            writer.writerow([policy, seed, episode, o.return_, success, o.length])
