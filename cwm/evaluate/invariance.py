"""How far the latents ignore appearance, measured with shadow pairs.

A shadow pair is the same motion filmed in two appearances. The paper's claim is that a
contextualized world model has context-unaware latents (section 4.2): those of a pair should agree
more than those of two motions in the same appearance.

Shapes: N clips, T frames, S latent variables of K classes.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from cwm.infra.checkpoint import load_parts, load_weights
from cwm.infra.device import reseed, set_up
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir
from cwm.nn.batch import clip_batch
from cwm.settings import InvarianceConfig, ModelConfig, PretrainConfig, RuntimeConfig
from cwm.videos.store import ClipStore
from cwm.world.action_free import ActionFreeModel

COLUMNS = ("model", "motion", "look", "shadow", "pair", "others", "closer")


def invariance(
    runtime: RuntimeConfig,
    model: ModelConfig,
    pretrained: PretrainConfig,
    cfg: InvarianceConfig,
    shadows: Path,
    weights: Path,
    run: RunDir,
) -> None:
    """Write `invariance.csv`, a row for each clip and each of its shadows.

    `model` is `trained` or `untrained`. `pair` is the agreement of the clip with its shadow,
    `others` its mean agreement with other motions in the same look, and `closer` the share of these
    that agree with it less than its shadow does (chance: 0.5).
    """
    device = set_up(runtime)
    store = ClipStore.open(shadows)
    if not isinstance(store, ClipStore):
        raise UserError(f"{shadows} is a mixture; shadow pairs are a single dataset")
    motion, look = read_names(shadows, store)
    lengths = np.array([store.index["length"][motion == each].min() for each in motion])
    if (lengths < cfg.length).any():
        short = motion[np.argmin(lengths)]
        raise UserError(f"{shadows}: motion {short} has {lengths.min()} frames, not {cfg.length}")
    reseed(pretrained.seed, "weights")  # the same initial weights as in pre-training
    world = ActionFreeModel(model, pretrained.world).to(device).eval()

    def agreements() -> np.ndarray:
        rows = np.arange(len(store))
        starts, parts = (lengths - cfg.length) // 2, []
        for i in range(0, len(rows), pretrained.batch):
            part = slice(i, i + pretrained.batch)
            image = torch.as_tensor(store.windows_of(rows[part], starts[part], cfg.length))
            parts.append(posterior(world, image.to(device)))
        return agreement(np.concatenate(parts))

    untrained = agreements()
    tensors, _ = load_weights(weights)
    load_parts({"vision": world.vision, "rssm": world.rssm}, tensors, weights)
    with (run.folder / "invariance.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, matrix in (("trained", agreements()), ("untrained", untrained)):
            writer.writerows([name, *row] for row in compare(matrix, motion, look, shadows))
    run.publish("invariance.csv")


def read_names(shadows: Path, store: ClipStore) -> tuple[np.ndarray, np.ndarray]:
    """Motion (N,) and look (N,) of each clip: the name of its file, and its label."""
    manifest = pq.read_table(shadows.with_name("manifest.parquet"), columns=["file", "status"])
    files = [row["file"] for row in manifest.to_pylist() if row["status"] == "ok"]
    if len(files) != len(store):
        raise UserError(f"{shadows} has {len(store)} clips of {len(files)} files, not one of each")
    if (store.index["label"] < 0).any():
        raise UserError(f"{shadows} has clips without a label; it must name the look of each")
    return np.array([Path(f).stem for f in files]), np.array(store.labels)[store.index["label"]]


@torch.no_grad()
def posterior(world: ActionFreeModel, image: torch.Tensor) -> np.ndarray:
    """Posterior probabilities (N, T, S, K) of clips (N, T, 64, 64, 3) uint8."""
    clips = clip_batch(image)
    embed = world.vision.embed(world.vision.pixels(clips.image))
    mode = torch.zeros((), device=image.device)
    start = world.rssm.initial(len(embed), embed)
    post, _ = world.rssm.observe(embed, None, clips.is_first, start, mode)
    return post.logit.float().softmax(-1).cpu().numpy()


def agreement(probability: np.ndarray) -> np.ndarray:
    """Agreement (N, N) of posteriors (N, T, S, K): the probability mass that two share, in 0..1.

    It is one minus the total variation distance, averaged over frames and variables.
    """
    rows = (np.minimum(clip, probability).sum(-1).mean((1, 2)) for clip in probability)
    return np.stack(list(rows))


def compare(
    agreement: np.ndarray, motion: np.ndarray, look: np.ndarray, shadows: Path
) -> Iterator[tuple[str, str, str, float, float, float]]:
    """Motion, look, look of the shadow, `pair`, `others` and `closer` of each clip and shadow."""
    found = False
    for i in range(len(agreement)):
        others = (look == look[i]) & (motion != motion[i])
        if not others.any():
            continue
        for j in np.flatnonzero((motion == motion[i]) & (look != look[i])):
            found, pair = True, agreement[i, j]
            closer = np.sign(pair - agreement[i, others]) / 2 + 0.5
            mean = agreement[i, others].mean()
            yield motion[i], look[i], look[j], float(pair), float(mean), float(closer.mean())
    if not found:
        raise UserError(
            f"{shadows} has no shadow pair; each look needs two motions, and each motion two looks"
            " (labels are looks, file names are motions)"
        )
