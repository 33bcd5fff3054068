"""A pre-trained world model's open-loop predictions of held-out clips, and their errors."""

import csv
from pathlib import Path

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from cwm.checkpoint import load_parts, load_weights
from cwm.data.batch import clip_batch
from cwm.data.clips import ClipStore
from cwm.run.folder import Run
from cwm.run.pretrain import PretrainConfig
from cwm.runtime import RuntimeConfig, reseed, set_up
from cwm.world.action_free import ActionFreeModel
from cwm.world.openloop import predict
from cwm.world.vision import ModelConfig


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PredictConfig:
    """Video prediction on held-out clips."""

    clips: int = 64
    length: int = 25
    observed: int = 5  # frames that the model sees before it predicts
    shown: int = 4  # clips kept as pictures
    moving: float = 0.1  # change since the last observed frame that makes a pixel a moving one


def predict_clips(
    runtime: RuntimeConfig,
    model: ModelConfig,
    pretrained: PretrainConfig,
    cfg: PredictConfig,
    clips: Path,
    weights: Path,
    run: Run,
) -> None:
    """Write `errors.csv`, a row per clip and frame, and `predictions.npz`, some of the frames."""
    device = set_up(runtime)
    store = ClipStore.open(clips)
    world = ActionFreeModel(model, pretrained.world).to(device).eval()
    tensors, _ = load_weights(weights)
    load_parts({"vision": world.vision, "rssm": world.rssm}, tensors, weights)
    truth = store.windows(cfg.clips, cfg.length, "heldout", pretrained.seed)
    reseed(pretrained.seed, "predict")
    images = []
    for part in torch.as_tensor(truth).split(pretrained.batch):
        image = predict(world, clip_batch(part.to(device)), cfg.observed)
        images.append(image.clamp(0, 1).movedim(-3, -1).float().cpu().numpy())
    image = np.concatenate(images)
    write_errors(run.folder / "errors.csv", truth / np.float32(255), image, cfg)
    shown = slice(0, cfg.shown)
    arrays = {
        "truth": truth[shown],
        "model": (image[shown] * 255).round().astype(np.uint8),
        "observed": np.int64(cfg.observed),
    }
    if model.context is not None:
        arrays["context"] = truth[shown, cfg.observed - 1]
    np.savez_compressed(run.folder / "predictions.npz", **arrays)
    run.publish("predictions.npz", "errors.csv")


def write_errors(path: Path, truth: np.ndarray, image: np.ndarray, cfg: PredictConfig) -> None:
    """Squared errors of frames (N, T, 64, 64, 3) in 0..1, over all and over moving pixels.

    A pixel moves if any channel differs by more than `cfg.moving` from the last observed frame.
    Beside the model's errors stand those of repeating that frame.
    """
    last = truth[:, cfg.observed - 1 : cfg.observed]
    moving = (np.abs(truth - last) > cfg.moving).any(-1)
    model, repeat = (np.square(x - truth).mean(-1) for x in (image, last))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        errors = ["mse", "mse_moving", "repeat_mse", "repeat_mse_moving"]
        writer.writerow(["clip", "t", "phase", *errors])
        for clip, t in np.ndindex(truth.shape[:2]):
            at, where = (clip, t), moving[clip, t]
            errors = [model[at].mean(), _mean(model[at][where])]
            errors += [repeat[at].mean(), _mean(repeat[at][where])]
            phase = "observed" if t < cfg.observed else "predicted"
            writer.writerow([clip, t, phase, *(e if e == "" else float(e) for e in errors)])


def _mean(values: np.ndarray) -> float | str:
    """The mean, or nothing where nothing moves."""
    return values.mean() if len(values) else ""
