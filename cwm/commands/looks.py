"""What a task looks like: first frames of some episodes, in both qualities, one above the other."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from cwm.train.rollout import EnvConfig, make

log = logging.getLogger(__name__)
EPISODES, SIZE = 8, 96


def draw_looks(what: str, cfg: EnvConfig, out: Path) -> None:
    """Write a picture of `suite/task`: the simulator's own quality above, `fast` below it.

    Of DMC Remastered, below that, every factor alone and all together (its `contact_sheet`).
    """
    from PIL import Image

    suite, _, task = what.partition("/")
    rows = []
    for render in ("reference", "fast"):
        env = make(what, replace(cfg, render=render))
        frames = []
        for seed in range(EPISODES):
            env.reset(seed=seed)
            frames.append(env.unwrapped.frame(SIZE, SIZE))
        env.close()
        rows.append(np.concatenate(frames, axis=1))
    if suite == "dmc-remastered":
        from envs import dmcr

        rows.append(dmcr.contact_sheet(task, size=SIZE, textures=cfg.textures))
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(out)
    log.info("%s: %s", what, out)
