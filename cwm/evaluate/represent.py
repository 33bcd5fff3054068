"""Time-averaged features of clips with two labels, from a pre-trained world model.

They show whether a representation separates two motions: in the paper, pushing from left to right
and from right to left.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cwm.infra.checkpoint import load_parts, load_weights
from cwm.infra.device import reseed, set_up
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir
from cwm.nn.batch import clip_batch
from cwm.settings import ModelConfig, PretrainConfig, RepresentConfig, RuntimeConfig
from cwm.videos.index import SPLITS
from cwm.videos.store import ClipStore
from cwm.world.action_free import ActionFreeModel
from cwm.world.openloop import rollout_features


def represent(
    runtime: RuntimeConfig,
    model: ModelConfig,
    pretrained: PretrainConfig,
    cfg: RepresentConfig,
    clips: Path,
    weights: Path,
    run: RunDir,
) -> None:
    """Write `features.npz`: features (N, F) of the pre-trained and of an untrained model.

    Features are the posterior modes and recurrent states, averaged over the frames. `label` (N,) is
    0 or 1, an index into `labels`; `heldout` (N,) is true for held-out clips.
    """
    device = set_up(runtime)
    store = ClipStore.open(clips)
    if not isinstance(store, ClipStore):
        raise UserError(f"{clips} is a mixture; `represent` needs the labels of a single dataset")
    names = [_label(pattern, store.labels, clips) for pattern in cfg.labels]
    rows, label = choose(store, [store.labels.index(name) for name in names], cfg, pretrained.seed)
    starts = (store.index["length"][rows] - cfg.length) // 2
    reseed(pretrained.seed, "weights")  # the same initial weights as in pre-training
    world = ActionFreeModel(model, pretrained.world).to(device).eval()

    def features() -> np.ndarray:
        means = []
        for i in range(0, len(rows), pretrained.batch):
            part = slice(i, i + pretrained.batch)
            image = torch.as_tensor(store.windows_of(rows[part], starts[part], cfg.length))
            means.append(_mean_features(world, image.to(device)))
        return np.concatenate(means)

    untrained = features()
    tensors, _ = load_weights(weights)
    load_parts({"vision": world.vision, "rssm": world.rssm}, tensors, weights)
    arrays: dict[str, Any] = {"features": features(), "untrained": untrained, "label": label}
    arrays |= {"heldout": store.split[rows] == SPLITS.index("heldout"), "labels": np.array(names)}
    np.savez_compressed(run.folder / "features.npz", **arrays)
    run.publish("features.npz")


def choose(
    store: ClipStore, labels: list[int], cfg: RepresentConfig, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of clips that are long enough, and the index 0 or 1 of their label."""
    rng = np.random.default_rng(seed)
    long_enough = store.index["length"] >= cfg.length
    rows, kinds = [], []
    for kind, label in enumerate(labels):
        of_label = long_enough & (store.index["label"] == label)
        for split in range(len(SPLITS)):
            found = np.flatnonzero(of_label & (store.split == split))
            chosen = np.sort(rng.permutation(found)[: cfg.clips])
            rows.append(chosen)
            kinds.append(np.full(len(chosen), kind))
        if not of_label.any():
            name = store.labels[label]
            raise UserError(f"no clip of {cfg.length} frames is labelled {name!r}")
    return np.concatenate(rows), np.concatenate(kinds)


def _label(pattern: str, labels: list[str], clips: Path) -> str:
    """The only label whose beginning matches the pattern."""
    found = [label for label in labels if re.match(pattern, label, re.IGNORECASE)]
    if len(found) != 1:
        some = ", ".join((found or labels)[:8]) or "none"
        raise UserError(f"{pattern!r} must match one label of {clips}, not {len(found)}: {some}")
    return found[0]


def _mean_features(world: ActionFreeModel, image: torch.Tensor) -> np.ndarray:
    mode = torch.zeros((), device=image.device)
    feat = rollout_features(world, clip_batch(image), image.shape[1], mode)
    return feat.mean(1).float().cpu().numpy()
