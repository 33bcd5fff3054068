"""A clip store of moving squares, made without ffmpeg, and pre-training runs on it."""

import json
from pathlib import Path

import numpy as np

from cwm import config
from cwm.commands.run_spec import run_spec
from cwm.infra.files import sha256
from cwm.infra.run_dir import RunDir
from cwm.train.pretrain import pretrain
from cwm.videos.codec import shard_name
from cwm.videos.index import INDEX

ROOT = Path(__file__).parents[1] / "config"


def store(folder: Path, labels: tuple[str, ...] = (), length: int = 10) -> Path:
    """Ten clips of squares that move down, the last two held out; labels alternate."""
    frames = np.full((10, length, 64, 64, 3), 40, np.uint8)
    for clip, t in np.ndindex(10, length):
        frames[clip, t, 5 * t : 5 * t + 14, 4 * clip : 4 * clip + 14] = 200
    np.save(folder / shard_name(0), frames.reshape(10 * length, 64, 64, 3))
    index = np.zeros(10, INDEX)
    index["offset"], index["length"] = np.arange(10) * length, length
    index["label"] = np.arange(10) % len(labels) if labels else -1
    index["split"][-2:] = 1
    np.save(folder / "index.npy", index)
    info = {"dataset": "squares", "labels": labels, "frame_shape": [64, 64, 3]}
    info |= {"frame_bytes": 64 * 64 * 3, "shards": {shard_name(0): 10 * length}}
    info |= {"clips": {"train": 8, "heldout": 2}, "frames": 10 * length}
    info["sha256"] = {"content": "c", "index": sha256(folder / "index.npy"), "manifest": "5ha"}
    (folder / "store.json").write_text(json.dumps(info))
    return folder / "store.json"


def settings(model="contextwm"):
    return [ROOT / folder / f"{n}.yaml" for folder, n in (("scale", "smoke"), ("model", model))]


def begin(stage, out, inputs, model="contextwm", sets=()):
    """The settings of a stage and its RunDir."""
    cfg = config.load(settings(model), sets)
    spec = run_spec(stage, "squares", cfg, settings(model), inputs)
    return cfg, RunDir(spec, out, 0.0)


def watch(clips, out, model="contextwm", sets=()):
    """Pre-train a model; returns `out`."""
    cfg, run = begin("pretrain", out, {"clips": clips}, model, sets)
    with run:
        pretrain(cfg.runtime, cfg.model, cfg.pretrain, clips, run)
    return out
