"""Stand-in corpora: real encoded video files that anyone can make, without a download.

A clip is a pure function of (seed, number of the clip), so how many are made, by how many
processes and in which order changes none of them.

A stand-in is a module with a `VERSION` (a change of what is drawn makes new files); for a clip its
`label(clip)`, its `place(clip)` below the stand-in's folder (a file, or a folder of stills, in a
folder named by the label), and what can be counted about it, `traits(seed, clip)`; a `Studio`, made
once in a process, whose `film(seed, clip)` gives the frames of any clip; and `write(path, frames)`,
which makes the place appear when it is complete.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from importlib import import_module
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from cwm.infra.errors import unknown

log = logging.getLogger(__name__)
NAMES = ("driving", "human36m", "robot", "something")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class StandinConfig:
    """Which clips to make, how many, and from which seed."""

    name: str = ""
    clips: PositiveInt = 200
    seed: NonNegativeInt = 0


class Job(NamedTuple):
    """One clip to make."""

    name: str
    seed: int
    clip: int
    path: Path


def generate(cfg: StandinConfig, root: Path, workers: int) -> dict[str, dict[str, str]]:
    """Make the clips that are not there yet; returns the traits of all of them, by their names.

    A name is that of a file below `root`, or of a folder with the stills of one clip and nothing
    else. It is there only when all of the clip is, so existing ones are kept.
    """
    if cfg.name not in NAMES:
        raise unknown("stand-in dataset", cfg.name, NAMES)
    module = import_module(f"{__name__}.{cfg.name}")
    folder = f"{cfg.name}-v{module.VERSION}-seed{cfg.seed}"
    places = [f"{folder}/{module.place(clip)}" for clip in range(cfg.clips)]
    todo = [clip for clip, place in enumerate(places) if not (root / place).exists()]
    log.info("%s: %d of %d clips to make", cfg.name, len(todo), cfg.clips)
    groups = defaultdict(list)
    for clip in todo:
        groups[module.label(clip)].append(Job(cfg.name, cfg.seed, clip, root / places[clip]))
    if todo:
        _in_processes(list(groups.values()), min(workers, len(todo)))
    traits = (module.traits(cfg.seed, clip) for clip in range(cfg.clips))
    return dict(sorted(zip(places, traits, strict=True)))


def _in_processes(groups: list[list[Job]], workers: int) -> None:
    """Film groups of alike clips in processes; stops on the first error.

    A group is divided only when there are more processes than groups, since the first clip of a
    label may cost a studio a second to prepare for.
    """
    parts = range(-(-workers // len(groups)))
    chunks = [group[i :: len(parts)] for group in groups for i in parts if i < len(group)]
    total = sum(map(len, groups))
    spawn = multiprocessing.get_context("spawn")  # OpenGL does not survive a fork
    stop, made = spawn.Event(), 0
    with ProcessPoolExecutor(workers, spawn, initializer=_begin, initargs=(stop,)) as pool:
        try:
            for done in as_completed([pool.submit(_film, chunk) for chunk in chunks]):
                made += done.result()
                log.info("made %d of %d clips", made, total)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _begin(stop: Event) -> None:
    """Set up a process: Ctrl-C reaches all of them, but the parent alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa would draw each picture on all cores
    _film.stop = stop


def _follow_parent() -> None:
    """End with a parent that was killed, or the next run would meet a second writer."""
    multiprocessing.parent_process().join()
    os._exit(1)


@cache
def _studio(name: str) -> tuple[Any, Any]:
    """A stand-in's module and its studio."""
    module = import_module(f"{__name__}.{name}")
    return module, module.Studio()


def _film(jobs: list[Job]) -> int:
    """Film and encode some clips in a process of the pool; returns how many."""
    for job in jobs:
        if _film.stop.is_set():
            break
        module, studio = _studio(job.name)
        module.write(job.path, studio.film(job.seed, job.clip))
    return len(jobs)
