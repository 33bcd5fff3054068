"""Time of the viewer's answers at evidence size: python bench/viewer.py

One thread, untrained models, means of CPU time. A page shows a new context frame of a clip as soon
as its 20 frames of both models are decoded; in a dream each step shows one frame.
"""

import base64
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.record import Record
from cwm.agent import Agent
from cwm.config import Config, load
from cwm.models import SIZE, AgentModel, Frames, VideoModel
from cwm.viewer.session import LENGTH, Session
from cwm.world.action_free import ActionFreeModel

CONFIG = Path(__file__).parents[1] / "config"
REPEATS = 15


class RandomClips:
    """Two clips of random pixels."""

    names = ("1", "2")

    def frames(self, number: int) -> Frames:
        rng = np.random.default_rng(number)
        return rng.integers(256, size=(LENGTH, SIZE, SIZE, 3), dtype=np.uint8)


def settings(model: str) -> Config:
    names = {"suite": "toy", "scale": "evidence", "model": model}
    return load([CONFIG / kind / f"{name}.yaml" for kind, name in names.items()], task="sphere")


def session() -> Session:
    models, untrained = {}, {"kind": "untrained"}
    for name in ("contextwm", "plain"):
        cfg = settings(name)
        world = ActionFreeModel(cfg.model, cfg.pretrain.world).eval()
        models[name] = VideoModel(world, untrained, cfg, "cpu")
    cfg = settings("contextwm")
    agent = Agent(cfg.model, cfg.finetune.agent, 2, "fp32").eval()
    agents = {"agent": (AgentModel(agent, untrained, cfg, "cpu"), "toy/sphere", cfg.env)}
    return Session(models, agents, RandomClips())


def contexts() -> Iterator[dict[str, str]]:
    """Plain colours, as the page sends them."""
    for value in itertools.cycle(range(256)):
        pixels = np.full(SIZE * SIZE * 3, value, np.uint8)
        yield {"kind": "pixels", "data": base64.b64encode(pixels).decode()}


def milliseconds(page: Session, messages: Iterator[dict[str, Any]]) -> float:
    page.answer(json.dumps(next(messages)))
    start = time.process_time()
    for message in itertools.islice(messages, REPEATS):
        page.answer(json.dumps(message))
    return 1000 * (time.process_time() - start) / REPEATS


def main() -> None:
    torch.set_num_threads(1)
    record, page = Record("viewer"), session()
    asked: dict[str, Any] = {"do": "clip", "clip": 0, "observed": 5}
    swapped = (asked | {"context": context} for context in contexts())
    frames = 2 * LENGTH
    swap = milliseconds(page, swapped)
    record.add(f"new context frame, {frames} frames of two models", swap, "ms")
    record.add("frames per second", 1000 * frames / swap, "1/s")
    clips = (asked | {"clip": i % 2, "context": {"kind": "own"}} for i in itertools.count())
    record.add(f"new clip, {frames} frames of two models", milliseconds(page, clips), "ms")
    page.answer(json.dumps({"do": "reset", "agent": "agent", "seed": 0}))
    step = {"do": "step", "action": None, "context": {"kind": "own"}}
    cost = milliseconds(page, (step for _ in itertools.count()))
    record.add("step of an agent in dream and simulator", cost, "ms")
    record.add("steps per second", 1000 / cost, "1/s")
    page.close()
    record.save()


if __name__ == "__main__":
    main()
