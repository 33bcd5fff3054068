"""Check within a minute whether an environment from outside this package can be used."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cwm.config import Config, load
from cwm.infra.files import atomic_write
from cwm.train.environment import make
from envs.errors import EnvError
from envs.external import External
from envs.factories import one_line

FIRST, ALL, LIMIT = 10, 35, 50  # seconds: the first episode, all episodes, the whole check
EPISODES = 5
SHOWN, ZOOM = 4, 4  # frames in the picture, and their enlargement


class Episode(NamedTuple):
    """An episode with random actions."""

    frames: NDArray[np.uint8]  # (n+1, 64, 64, 3)
    rewards: list[float]  # n
    end: str  # terminated, truncated, or `stopped` by the check
    success: float | None
    seconds: float


class Report(NamedTuple):
    """What was found; the environment works if there are no problems."""

    facts: dict[str, str]
    problems: list[str]


def check_env(
    name: str, files: Sequence[Path], sets: Sequence[str] | None, picture: Path
) -> Report:
    """Run episodes with random actions; write frames as the agent sees them to `picture`, a PNG.

    `name` is a value for `env.make`, or SUITE/TASK if the settings in `files` and `sets` give
    `env.make`. UserError for invalid settings only.
    """
    cfg = load(files, sets, name.partition("/")[2] or None)
    if cfg.env.make is None:
        cfg, name = replace(cfg, env=replace(cfg.env, make=name)), "mine/environment"
    report = Report({}, [])
    try:
        with _time_limit():
            for problem in _check(name, cfg, report.facts, picture):
                report.problems.append(problem)  # at once: a later one may be an error
    except EnvError as error:
        report.problems.append(str(error))
    return report


def _check(what: str, cfg: Config, facts: dict[str, str], picture: Path) -> Iterator[str]:
    """Add facts; yield problems."""
    start = time.monotonic()
    env = make(what, cfg.env)
    external = cast(External, env.unwrapped)
    facts["actions"] = f"{one_line(external.original.action_space)}, rescaled to [-1, 1]"
    first = _episode(env, 0, FIRST)
    source = "observations" if external.observed else "render()"
    height, width = external.size or (0, 0)
    facts["frames"] = f"{source} of {height}x{width} pixels, resized to 64x64"
    facts["speed"] = f"{len(first.rewards) / first.seconds:.1f} frames per second"
    _draw(first.frames, picture)
    facts["picture"] = f"{picture}: {SHOWN} frames of an episode as the agent sees them"
    if (first.frames == first.frames[0]).all():
        yield "no frame of the first episode differs from its first frame"
    steps = len(first.rewards)
    other = make(what, cfg.env)
    _episode(other, 1, FIRST, steps=2)  # an episode must not depend on those before it
    if difference := _difference(first, _episode(other, 0, LIMIT, steps)):
        yield (
            f"the seed does not determine an episode: with equal seeds and actions, {difference}"
            " between two instances, one of which had an episode before (usual causes:"
            " docs/own-environment.md)"
        )
    elif not cfg.env.processes and (
        difference := _difference(first, _episode(env, 0, LIMIT, steps))
    ):
        yield (
            f"a second instance in the same process changes the first ({difference}): set"
            " env.processes to true"
        )
    else:
        facts["seed"] = f"two episodes with equal seeds and {steps} equal actions are equal"
    other.close()
    episodes = [first]
    while len(episodes) < EPISODES and time.monotonic() < start + ALL:
        episodes.append(_episode(env, len(episodes), start + ALL - time.monotonic()))
    env.close()
    yield from _ends(episodes, external.limited, cfg.finetune.length, facts)
    rewards = np.concatenate([episode.rewards for episode in episodes])
    facts["rewards"] = f"{rewards.min():.3g} to {rewards.max():.3g} per step"
    reports = first.success is not None
    solved = sum(bool(episode.success) for episode in episodes)
    facts["success"] = f"in {solved} of {len(episodes)} episodes" if reports else "not reported"


def _ends(
    episodes: list[Episode], limited: bool, window: int, facts: dict[str, str]
) -> Iterator[str]:
    """How episodes end; `window`: agent steps of a training window."""
    whole = [len(episode.rewards) for episode in episodes if episode.end != "stopped"]
    longest = max(len(episode.rewards) for episode in episodes)
    ends = [episode.end for episode in episodes]
    counts = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
    facts["episodes"] = f"{counts}; the longest has {longest} agent steps"
    if not whole and not limited:
        yield (
            f"no episode ended within {longest} agent steps, and nothing limits them: set"
            " env.time_limit, in agent steps"
        )
    elif len(whole) == len(episodes) and longest == 1:
        yield "every episode ends at its first step"
    elif len(whole) == len(episodes) and longest < window:
        yield (
            f"the longest of {len(whole)} episodes with random actions has {longest} agent steps,"
            f" fewer than finetune.length {window}: give the settings of your runs, or lower it"
        )


def _episode(env: gymnasium.Env, seed: int, seconds: float, steps: int | None = None) -> Episode:
    """An episode with actions drawn from the seed, until a time or a number of steps is over."""
    rng = np.random.default_rng(seed)
    frame, _ = env.reset(seed=seed)
    start, end = time.monotonic(), "stopped"
    frames, rewards = [frame], list[float]()
    successes: list[Any] = []  # None in every step, or in none
    while end == "stopped" and (not rewards or time.monotonic() < start + seconds):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        frame, reward, terminated, truncated, info = env.step(action)
        frames.append(frame)
        rewards.append(float(reward))
        successes.append(info.get("success"))
        if terminated or truncated:
            end = "terminated" if terminated else "truncated"
        elif len(rewards) == steps:
            break
    success = None if None in successes else max(successes)
    return Episode(np.stack(frames), rewards, end, success, time.monotonic() - start)


def _difference(one: Episode, other: Episode) -> str:
    """The first difference of two episodes, or nothing."""
    if not np.array_equal(one.frames[0], other.frames[0]):
        return "the first frames differ"
    steps = zip(one.frames[1:], other.frames[1:], one.rewards, other.rewards, strict=False)
    for step, (frame, frame_, reward, reward_) in enumerate(steps, 1):
        if reward != reward_:
            return f"the rewards of step {step} are {reward:g} and {reward_:g}"
        if not np.array_equal(frame, frame_):
            return f"the frames after step {step} differ"
    if (len(one.rewards), one.end) != (len(other.rewards), other.end):
        return (
            f"one episode {one.end} after {len(one.rewards)} steps, one after {len(other.rewards)}"
        )
    return ""


def _draw(frames: NDArray[np.uint8], picture: Path) -> None:
    """Write frames of equal distances side by side."""
    chosen = frames[np.linspace(0, len(frames) - 1, SHOWN).astype(int)]
    pixels = np.concatenate(list(chosen), axis=1).repeat(ZOOM, 0).repeat(ZOOM, 1)
    with atomic_write(picture) as part:
        Image.fromarray(pixels).save(part, format="png")


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise EnvError when the check has taken LIMIT seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise EnvError(f"the check was not done within {LIMIT} s: the environment is too slow")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
