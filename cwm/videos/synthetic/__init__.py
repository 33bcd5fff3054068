"""Synthetic datasets: real encoded video files that need no download.

A clip is a pure function of the seed and its number: how many clips are made, by how many processes
and in which order does not change it.

Each dataset is a module of this package with

- `VERSION`, which increases when the frames change: clips are then rendered again;
- `label(clip)`, `file_name(clip)` and `traits(seed, clip)` of a clip;
- `render(seed, clip)`, which yields the frames (consecutive clips of one label are the fastest), or
  steps of experience;
- `write(path, frames)`, which creates the file, or folder of images, atomically.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from cwm.infra.errors import unknown

log = logging.getLogger(__name__)
NAMES = ("driving", "experience", "human36m", "robot", "shadows", "something")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SyntheticConfig:
    """Which dataset to generate, how many clips, and from which seed."""

    name: str = ""  # of a dataset in cwm/videos/synthetic
    clips: PositiveInt = 200  # to generate
    seed: NonNegativeInt = 0  # of all clips


def nth_label(labels: Sequence[str], clip: int) -> str:
    """Label of a clip; labels have equal shares of any number of clips."""
    return labels[clip % len(labels)]


def nth_file(labels: Sequence[str], suffix: str, clip: int) -> str:
    """Path of a clip's file below the dataset's folder."""
    return f"{nth_label(labels, clip)}/{clip:06d}{suffix}"


def generate(cfg: SyntheticConfig, root: Path, workers: int) -> dict[str, dict[str, str]]:
    """Make the missing clips below `root`; returns the traits of all clips by path.

    A path is relative to `root` and names a video file, or a folder with the images of one clip.
    Raises UserError for an unknown dataset.
    """
    if cfg.name not in NAMES:
        raise unknown("synthetic dataset", cfg.name, NAMES)
    module = import_module(f"{__name__}.{cfg.name}")
    folder = f"{cfg.name}-v{module.VERSION}-seed{cfg.seed}"
    paths = [f"{folder}/{module.file_name(clip)}" for clip in range(cfg.clips)]
    missing = [clip for clip, path in enumerate(paths) if not (root / path).exists()]
    missing.sort(key=module.label)
    log.info("%s: %d of %d clips to make", cfg.name, len(missing), cfg.clips)
    if missing:
        spawn = multiprocessing.get_context("spawn")  # OpenGL does not survive a fork
        workers = min(workers, len(missing))
        with ProcessPoolExecutor(workers, spawn, initializer=_begin) as pool:
            try:
                jobs = [pool.submit(_make, cfg, clip, root / paths[clip]) for clip in missing]
                for done, job in enumerate(jobs, 1):
                    job.result()
                    if done % 100 == 0:
                        log.info("made %d of %d clips", done, len(jobs))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    traits = (module.traits(cfg.seed, clip) for clip in range(cfg.clips))
    return dict(sorted(zip(paths, traits, strict=True)))


def _make(cfg: SyntheticConfig, clip: int, path: Path) -> None:
    module = import_module(f"{__name__}.{cfg.name}")
    module.write(path, module.render(cfg.seed, clip))


def _begin() -> None:
    """Set up a worker: only the parent handles Ctrl-C, and a killed parent ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Exit with the parent, so that the next run is the only writer."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
