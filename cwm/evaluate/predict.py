"""Open-loop predictions of held-out clips by a pre-trained world model, and their errors."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cwm.evaluate.ssim import ssim, within
from cwm.infra.checkpoint import load_parts, load_weights
from cwm.infra.device import reseed, set_up
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir
from cwm.nn.batch import ClipBatch, clip_batch
from cwm.nn.decoder import ResNetDecoder
from cwm.settings import ModelConfig, PredictConfig, PretrainConfig, RuntimeConfig
from cwm.videos.store import ClipStore
from cwm.world.action_free import ActionFreeModel
from cwm.world.openloop import MOVING, attention, encode_context, rollout_features

ATTENTION = 16  # the larger of the two resolutions at which the decoder attends to the context
MEASURES = ("mse", "mse_moving", "ssim", "ssim_moving")


@torch.no_grad()
def predict_clips(
    runtime: RuntimeConfig,
    model: ModelConfig,
    pretrained: PretrainConfig,
    cfg: PredictConfig,
    clips: Path,
    weights: Path,
    run: RunDir,
) -> None:
    """Write `errors.csv`, a row for each clip and frame, and the images in `predictions.npz`."""
    if cfg.observed >= cfg.length:
        raise UserError(f"predict.observed {cfg.observed} must be less than length {cfg.length}")
    device = set_up(runtime)
    store = ClipStore.open(clips)
    world = ActionFreeModel(model, pretrained.world).to(device).eval()
    tensors, _ = load_weights(weights)
    load_parts({"vision": world.vision, "rssm": world.rssm}, tensors, weights)
    n = min(cfg.clips, store.different(cfg.length))
    truth = store.windows(n, cfg.length, "heldout", pretrained.seed)
    reseed(pretrained.seed, "predict")
    images, feats = [], []
    for part in torch.as_tensor(truth).split(pretrained.batch):
        batch = clip_batch(part.to(device))
        feats.append(rollout_features(world, batch, cfg.observed))
        images.append(decode(world, feats[-1], encode_context(world, batch, cfg.observed)))
    image = np.concatenate(images)
    write_errors(run.folder / "errors.csv", truth / np.float32(255), image, cfg.observed)
    shown, truth = clip_batch(torch.as_tensor(truth[: cfg.shown]).to(device)), truth[: cfg.shown]
    arrays: dict[str, Any] = {"truth": truth, "model": as_bytes(image[: cfg.shown])}
    arrays |= {"observed": cfg.observed} | compose(world, shown, cfg.observed)
    if (context := encode_context(world, shown, cfg.observed)) is not None:
        arrays["context"] = truth[:, cfg.observed - 1]
        decoder = world.vision.decoder
        if isinstance(decoder, ResNetDecoder) and decoder.attention:
            maps = attention(decoder, torch.cat(feats)[: cfg.shown], context, ATTENTION)
            moves = tokens_with(moving_pixels(truth / np.float32(255), cfg.observed), ATTENTION)
            arrays["moves"] = moves
            arrays["attention"] = moving_attention(maps.float().cpu().numpy(), moves)
    np.savez_compressed(run.folder / "predictions.npz", **arrays)
    run.publish("predictions.npz", "errors.csv")


def compose(world: ActionFreeModel, clips: ClipBatch, observed: int) -> dict[str, np.ndarray]:
    """Decode clips from posterior features, once with their own context frame, once with another's.

    `decoded` has the own context frame, `recomposed` that of clip `other` (N,), the next one. A
    plain model has no context, so it returns `decoded` only.
    """
    feat = rollout_features(world, clips, clips.image.shape[1])
    context = encode_context(world, clips, observed)
    arrays = {"decoded": as_bytes(decode(world, feat, context))}
    if context is None:
        return arrays
    other = np.roll(np.arange(len(feat)), -1)
    exchanged = decode(world, feat, {size: x[other] for size, x in context.items()})
    return arrays | {"recomposed": as_bytes(exchanged), "other": other}


def decode(world: ActionFreeModel, feat: Tensor, context: dict[int, Tensor] | None) -> np.ndarray:
    """Decode features (N, T, F) to images (N, T, 64, 64, 3) in 0..1."""
    image = world.vision.decoder(feat, context) + 0.5
    return image.clamp(0, 1).movedim(-3, -1).float().cpu().numpy()


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Images in 0..1 -> uint8 in 0..255."""
    return (image * 255).round().astype(np.uint8)


def moving_pixels(truth: np.ndarray, observed: int) -> np.ndarray:
    """Mask (N, T, H, W) of the pixels in 0..1 that differ from the last observed frame."""
    return (np.abs(truth - truth[:, observed - 1 : observed]) > MOVING).any(-1)


def tokens_with(pixels: np.ndarray, size: int) -> np.ndarray:
    """Mask (N, T, size, size) of the tokens that contain a pixel of the mask (N, T, H, W)."""
    cell = pixels.shape[-1] // size
    return np.any(pixels.reshape(*pixels.shape[:2], size, cell, size, cell), axis=(3, 5))


def moving_attention(weights: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Attention (N, T, Q, Q) averaged over moving queries, (N, T, h, w); NaN without any."""
    queries = moves.reshape(*moves.shape[:2], 1, -1).astype(weights.dtype)
    with np.errstate(invalid="ignore"):
        mean = queries @ weights / queries.sum(-1, keepdims=True)
    return mean.reshape(moves.shape)


def write_errors(path: Path, truth: np.ndarray, image: np.ndarray, observed: int) -> None:
    """Write MSE and SSIM of frames (N, T, H, W, 3) in 0..1, one row for each frame.

    Columns: over all pixels and over moving pixels, for the model and for repeating the last
    observed frame (`repeat_`). SSIM covers only pixels whose window lies within the frame.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        measures = [by + name for by in ("", "repeat_") for name in MEASURES]
        writer.writerow(["clip", "t", "phase", *measures])
        moving = moving_pixels(truth, observed)
        for clip, (true, predicted) in enumerate(zip(truth, image, strict=True)):
            last = np.broadcast_to(true[observed - 1], true.shape)
            maps = [(np.square(x - true).mean(-1), ssim(x, true)) for x in (predicted, last)]
            for t, mask in enumerate(moving[clip]):
                phase = "observed" if t < observed else "predicted"
                values = []
                for error, similarity in maps:
                    values += [error[t].mean(), _mean(error[t][mask])]
                    values += [similarity[t].mean(), _mean(similarity[t][within(mask)])]
                writer.writerow([clip, t, phase, *(x if x == "" else f"{x:.8g}" for x in values)])


def _mean(values: np.ndarray) -> float | str:
    """The mean, or an empty cell without values."""
    return values.mean() if len(values) else ""
