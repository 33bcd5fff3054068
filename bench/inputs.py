"""Synthetic clips, episodes and batches for benchmarks, and agents for them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cwm import config
from cwm.agent import Agent
from cwm.infra.device import reseed
from cwm.infra.files import sha256
from cwm.nn.batch import Batch
from cwm.train.replay import Episode
from cwm.videos.codec import open_shard, shard_name
from cwm.videos.ffmpeg import FRAME_BYTES
from cwm.videos.index import INDEX, SPLITS, describe_blocks
from cwm.videos.store import ClipStore

CONFIG = Path(__file__).parents[1] / "config"


def smooth_frames(count: int) -> np.ndarray:
    """Smooth noise images (count, 64, 64, 3) uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), np.uint8)
    large = F.interpolate(torch.as_tensor(coarse).float(), size=(64, 64), mode="bicubic")
    return large.clamp(0, 255).byte().movedim(1, -1).numpy()


def clip_store(folder: Path, clips: int, frames: int, heldout: int = 0) -> ClipStore:
    """A store of `clips` clips with the same frames; the last `heldout` are held out."""
    np.save(folder / shard_name(0), np.tile(smooth_frames(frames), (clips, 1, 1, 1)))
    index = np.zeros(clips, INDEX)
    index["offset"], index["length"] = np.arange(clips) * frames, frames
    index["split"][clips - heldout :] = SPLITS.index("heldout")
    return write_store(folder, index, {shard_name(0): clips * frames})


def write_store(folder: Path, index: np.ndarray, shards: dict[str, int]) -> ClipStore:
    index["label"] = -1  # none
    np.save(folder / "index.npy", index)
    info = {"dataset": "made up", "labels": [], "frame_shape": [64, 64, 3]}
    info |= {"frame_bytes": FRAME_BYTES, "shards": shards}
    info |= {"clips": {"train": len(index)}, "frames": int(index["length"].sum())}
    info["sha256"] = {"content": "", "index": sha256(folder / "index.npy"), "manifest": ""}
    if blocks := describe_blocks(index):
        info["blocks"] = blocks
    (folder / "store.json").write_text(json.dumps(info))
    return ClipStore.open(folder / "store.json")


def compressed(store: ClipStore, folder: Path) -> ClipStore:
    """The same clips in one shard of H.264."""
    name = shard_name(0, "h264")
    shard, end, index = open_shard(folder / name), 0, np.array(store.index)
    for clip, length in enumerate(store.index["length"]):
        shard.append(end, shard.encode(store.read(clip, 0, int(length))))
        index["shard"][clip], index["offset"][clip] = 0, end
        end += int(length)
    shard.sync(end)
    return write_store(folder, index, {name: end})


def jpeg_clips(folder: Path, store: ClipStore) -> None:
    """Write the clips in the official code's format: a folder for each, frames from 000001.jpg."""
    from PIL import Image  # a dependency of the official code only

    for clip, length in enumerate(store.index["length"]):
        (folder / str(clip)).mkdir(parents=True)
        for number, frame in enumerate(store.read(clip, 0, int(length)), 1):
            Image.fromarray(frame).save(folder / f"{clip}/{number:06d}.jpg")


def episodes(count: int, steps: int, action_dim: int) -> list[Episode]:
    rng, frames = np.random.default_rng(0), smooth_frames(64)
    made = []
    for _ in range(count):
        image = frames[rng.integers(len(frames), size=steps + 1)]
        action = rng.uniform(-1, 1, (steps + 1, action_dim)).astype(np.float32)
        made.append(Episode(image, action, rng.uniform(0, 1, steps + 1).astype(np.float32)))
    return made


def agent(
    model: str, variant: str, scale: str, precision: str, device: str, sets: Sequence[str] = ()
) -> Agent:
    """An agent with four action dimensions and Meta-world's settings."""
    names = {"suite": "metaworld", "scale": scale, "model": model, "variant": variant}
    cfg = config.load([CONFIG / f"{f}/{name}.yaml" for f, name in names.items()], sets, "reach")
    reseed("weights")
    return Agent(cfg.model, cfg.finetune.agent, 4, precision).to(device)


def batch(rows: int, length: int, device: str, seed: int = 0) -> Batch:
    """A batch of random experience with four action dimensions."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (rows, length, 64, 64, 3), dtype=torch.uint8, generator=generator)
    is_first = torch.zeros(rows, length)
    is_first[:, 0] = 1
    action = 2 * torch.rand(rows, length, 4, generator=generator) - 1
    reward = torch.rand(rows, length, generator=generator)
    return Batch(*(x.to(device) for x in (image, is_first, action, reward)))
