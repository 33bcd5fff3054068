"""Does a context frame that reveals the state slow agents down? An experiment, in docs/log.md.

    python bench/context_window.py --out DIR [--pretrained weights.json] [--seeds 100 101]

Agents learn `toy/sphere-remastered` at `evidence` scale from windows of 8 or 20 steps, with 80
frames per update. The context frame is drawn from the window, or from the 20 steps around it, so
that it is far from most frames of a short window. Every run adds a line to DIR/runs.csv: area under
the learning curve, final return, KL in nats, image loss, and R^2 of a linear probe of the sphere's
position from the latents of episodes that no agent has seen. Finished runs are skipped.
"""

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import envs
from cwm.agent import Agent
from cwm.analysis.statistics import area_under_curve, final_score
from cwm.commands.run_spec import open_run
from cwm.infra.device import reseed
from cwm.nn.batch import Batch
from cwm.train.finetune import FinetuneLoop, finetune
from cwm.train.replay import Replay
from cwm.world.vision import Vision
from envs.sphere_remastered import RemasteredSphere

CONFIG = Path(__file__).parents[1] / "config"
TASK = "sphere-remastered"
FRAMES, EPISODE = 80, 20
ARMS = {  # name: length of a window, and of the segment that the context frame is drawn from
    "window of 8, context of the window": (8, 8),
    "window of 8, context of 20 steps": (8, 20),
    "window of 20, context of the window": (20, 20),
}
PROBED = 60  # episodes; a probe learns from one half


@contextmanager
def short_windows(length: int) -> Iterator[None]:
    """Cut windows of `length` steps from the sampled segments; contexts are of the segments."""
    sample, encode = Replay.sample, Vision.encode_context
    contexts: list[Tensor] = []

    def sample_short(replay: Replay, seed: int, i: int, batch: int) -> Batch:
        long = sample(replay, seed, i, batch)
        rng = np.random.default_rng([seed, 0xC0DE, i])
        rows = torch.arange(batch)
        contexts[:] = [long.image[rows, torch.as_tensor(rng.integers(replay.length, size=batch))]]
        start = torch.as_tensor(rng.integers(replay.length - length + 1, size=batch))
        steps = start[:, None] + torch.arange(length)
        is_first = torch.zeros(batch, length)
        is_first[:, 0] = 1
        image, action, reward = (x[rows[:, None], steps] for x in (long[0], *long[2:]))
        return Batch(image, is_first, action, reward)

    def encode_segment(vision: Vision, pixels: Tensor, index: Tensor | None = None) -> Any:
        if vision.training and index is None:  # a training batch
            pixels, index = vision.pixels(contexts[0])[:, None], torch.zeros(len(pixels)).long()
        return encode(vision, pixels, index)

    with (
        patch.object(Replay, "sample", sample_short),
        patch.object(Vision, "encode_context", encode_segment),
    ):
        yield


def run(arm: str, model: str, seed: int, pretrained: Path | None, out: Path) -> dict[str, Any]:
    """Train an agent and return its line of runs.csv."""
    length, segment = ARMS[arm]
    names = {"suite": "toy", "scale": "evidence", "model": model, "variant": "standard"}
    files = [CONFIG / kind / f"{name}.yaml" for kind, name in names.items()]
    sets = [f"finetune.length={segment}", f"finetune.batch={FRAMES // length}"]
    inputs = {"pretrained": pretrained} if pretrained else {}
    with open_run("finetune", f"toy/{TASK}", files, sets, out, inputs, seed) as (cfg, work):
        loop = FinetuneLoop(cfg.runtime, cfg.model, cfg.env, cfg.finetune, pretrained, work)
        if length < segment:
            with short_windows(length):
                finetune(loop)
        else:
            finetune(loop)
    scores = pd.read_csv(out / "scores.csv")
    curve = scores[scores["split"] == "eval"].groupby("step")["return"].mean().to_numpy()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "train/image" in line][-5:]
    return {
        "arm": arm,
        "model": model,
        "pretrained": bool(pretrained),
        "seed": seed,
        "area": round(area_under_curve(curve), 3),
        "final": round(final_score(curve), 3),
        "nats": round(float(np.mean([line["train/kl_value"] for line in last])), 3),
        "image": round(float(np.mean([line["train/image"] for line in last])), 2),
        "probe": round(probe(loop.agent), 3),
    }


def probe(agent: Agent) -> float:
    """R^2 of the sphere's position, by ridge regression from latents; 0 is its mean."""
    images, actions, positions = episodes()
    agent.world.eval()
    is_first = torch.zeros(PROBED, EPISODE)
    is_first[:, 0] = 1
    batch = Batch(images, is_first, actions, torch.zeros(PROBED, EPISODE))
    reseed(0, "probe")
    with torch.no_grad():
        feats = agent.world.loss(batch).post.feat.flatten(0, 1).numpy()
    half = len(feats) // 2
    mean, deviation = feats[:half].mean(0), feats[:half].std(0) + 1e-3
    x = (feats - mean) / deviation
    y = positions.reshape(-1, 2)
    ridge = x[:half].T @ x[:half] + 30 * np.eye(x.shape[1])
    centre = y[:half].mean(0)
    predicted = x[half:] @ np.linalg.solve(ridge, x[:half].T @ (y[:half] - centre)) + centre
    residual = np.square(predicted - y[half:]).sum()
    return float(1 - residual / np.square(y[half:] - y[half:].mean(0)).sum())


def episodes() -> tuple[Tensor, Tensor, np.ndarray]:
    """Images, actions and positions of PROBED episodes between random targets, other seeds."""
    env = envs.make("toy", TASK)
    sphere = cast(RemasteredSphere, env.unwrapped)
    rng = np.random.default_rng(77)
    images, actions, positions = [], [], []
    for _ in range(PROBED):
        image, _ = env.reset(seed=int(rng.integers(2**30)))
        action, target = np.zeros(2), rng.uniform(-0.9, 0.9, 2)
        for _ in range(EPISODE):
            at = sphere.data.qpos.copy()
            images.append(image)
            actions.append(action)
            positions.append(at)
            if np.abs(target - at).max() < 0.15:
                target = rng.uniform(-0.9, 0.9, 2)
            action = np.clip(6 * (target - at), -1, 1)
            image, *_ = env.step(action.astype(np.float32))
    env.close()
    shape = (PROBED, EPISODE)
    frames = torch.as_tensor(np.array(images)).unflatten(0, shape)
    moves = torch.as_tensor(np.array(actions), dtype=torch.float32).unflatten(0, shape)
    return frames, moves, np.array(positions, np.float32).reshape(*shape, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="contextwm")
    parser.add_argument("--pretrained", type=Path, help="weights.json of a pre-trained model")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(100, 105))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "runs.csv"
    done = pd.read_csv(path).to_dict("records") if path.exists() else []
    names = ("arm", "model", "pretrained", "seed")
    finished = {tuple(line[name] for name in names) for line in done}
    for seed in args.seeds:
        for arm in ARMS:
            if (arm, args.model, bool(args.pretrained), seed) in finished:
                continue
            folder = args.out / "run"
            line = run(arm, args.model, seed, args.pretrained, folder)
            shutil.rmtree(folder)
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, line)
                if not path.stat().st_size:
                    writer.writeheader()
                writer.writerow(line)
            print(line, flush=True)


if __name__ == "__main__":
    main()
