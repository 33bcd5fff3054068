"""Adaptation: fine-tune a world model on recorded episodes, without an environment.

The losses are those of fine-tuning (`cwm.world.stacked`), and no policy is learned. Held-out
episodes tell whether the model uses the actions: it predicts their frames with the recorded
actions, with those of another window, and with zeros.

Shapes: N windows, T frames of which the model observes the first `observed`, A action.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cwm.agent import world_optimizers
from cwm.infra.checkpoint import save_weights
from cwm.infra.device import reseed, set_up
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir
from cwm.nn.batch import Batch, clip_batch
from cwm.settings import AdaptConfig, AgentConfig, ModelConfig, RuntimeConfig
from cwm.train import offline
from cwm.train.prefetch import ahead
from cwm.train.pretrained import load_pretrained
from cwm.videos.store import ClipStore, Mixture
from cwm.world.openloop import MOVING, predict_with_actions
from cwm.world.stacked import StackedModel

CONDITIONS = ("true", "shuffled", "none")  # the actions that a prediction is made with
COLUMNS = ("clip", "actions", "ahead", "mse", "mse_moving")


def adapt(
    runtime: RuntimeConfig,
    model: ModelConfig,
    agent: AgentConfig,
    cfg: AdaptConfig,
    recorded: Path,
    pretrained: Path | None,
    run: RunDir,
) -> None:
    """Train on the store `recorded`; publish the weights and `action_errors.csv`.

    Without rewards in the store the reward losses are left out. Else both reward predictors learn
    the recorded reward: the bonus belongs to learning a policy.
    """
    if cfg.observed >= cfg.length:
        raise UserError(f"adapt.observed {cfg.observed} must be less than length {cfg.length}")
    seed = int(run.spec.labels["seed"])
    device = set_up(runtime)
    store = ClipStore.open(recorded)
    if isinstance(store, Mixture):
        raise UserError(f"{recorded} is a mixture; give the store of recorded episodes")
    windows = heldout_windows(store, cfg, seed)
    reseed(seed, "weights")
    size = store.steps.action.shape[1]
    world = StackedModel(model, agent.world, size).to(device)
    if pretrained is not None:
        load_pretrained(world, pretrained)
    optimizers = world_optimizers(world, agent)
    trained = offline.Trained(world, {f"{name}_optimizer": x for name, x in optimizers.items()})
    start = trained.resume(run)

    def loss(image: Tensor, action: Tensor, reward: Tensor | None = None) -> offline.Loss:
        output = world.loss(Batch(image, clip_batch(image).is_first, action, reward))
        return output.loss, output.terms

    learn = offline.learner(trained, loss, runtime, device)

    def update(step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if "encoder" in optimizers:
            optimizers["encoder"].freeze(step <= agent.encoder_frozen)
        return learn(*batch.values())

    def errors() -> dict[str, tuple[np.ndarray, np.ndarray]]:
        with torch.autocast(device, torch.bfloat16, enabled=runtime.precision == "bf16"):
            return action_errors(world, windows, cfg, device)

    def heldout() -> dict[str, float]:
        return {f"heldout/{name}": float(mse.mean()) for name, (mse, _) in errors().items()}

    batches = _batches(store, cfg, seed, start, device)
    schedule = offline.Schedule(cfg.updates, cfg.log_every, cfg.heldout_every)
    offline.fit(trained, schedule, start, seed, batches, update, heldout, run, device)
    write_errors(run.folder / "action_errors.csv", errors())
    about = {"kind": "action-conditional", "action_size": size, "updates": cfg.updates}
    tensors = {f"world.{name}": x for name, x in world.state_dict().items()}
    save_weights(run.folder, tensors, about | run.spec.labels)
    logs = ("metrics.jsonl", "timing.jsonl", "action_errors.csv")
    run.publish(*logs, "weights.safetensors", "weights.json")


def _batches(
    store: ClipStore, cfg: AdaptConfig, seed: int, start: int, device: str
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    def read(i: int) -> dict[str, np.ndarray]:
        clips, starts = store.draw(seed, i, cfg.batch, cfg.length)
        action, reward = store.steps_of(clips, starts, cfg.length)
        arrays = {"image": store.windows_of(clips, starts, cfg.length), "action": action}
        return arrays if reward is None else arrays | {"reward": reward}

    return ahead(read, start, device)


def heldout_windows(store: ClipStore, cfg: AdaptConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Frames (N, T, 64, 64, 3) and actions (N, T, A) of windows of different held-out episodes."""
    n = min(cfg.heldout_clips, store.different(cfg.length))
    if n < 2:
        raise UserError(
            f"dataset {store.info['dataset']} has one held-out episode of {cfg.length} frames, and"
            " shuffled actions need two; record more, or raise dataset.heldout"
        )
    clips, starts = store.fixed(n, cfg.length, "heldout", seed)
    frames = store.windows_of(clips, starts, cfg.length)
    return torch.as_tensor(frames), torch.as_tensor(store.steps_of(clips, starts, cfg.length)[0])


@torch.no_grad()
def action_errors(
    world: StackedModel, windows: tuple[Tensor, Tensor], cfg: AdaptConfig, device: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean squared errors of predicted frames by condition, twice (N, T - observed).

    Over all pixels, and over those that differ from the last observed frame: NaN without any. All
    predictions begin in the same state, which follows from the recorded actions.
    """
    world.eval()
    frames, action = windows
    future = action[:, cfg.observed :]
    futures = {"true": future, "shuffled": future.roll(1, 0), "none": torch.zeros_like(future)}
    found: dict[str, list[Tensor]] = {name: [] for name in CONDITIONS}
    for i in range(0, len(frames), cfg.batch):
        image, past = (x[i : i + cfg.batch].to(device) for x in (frames, action[:, : cfg.observed]))
        truth = image.movedim(-1, -3) / 255
        last, truth = truth[:, cfg.observed - 1 : cfg.observed], truth[:, cfg.observed :]
        moving = ((truth - last).abs() > MOVING).any(2)
        for name in CONDITIONS:
            chosen = futures[name][i : i + cfg.batch].to(device)
            guess = predict_with_actions(world, image[:, : cfg.observed], past, chosen)
            error = (guess.float().clamp(0, 1) - truth).square().mean(2)
            masked = (error * moving).sum((2, 3)) / moving.sum((2, 3))
            found[name].append(torch.stack([error.mean((2, 3)), masked]))
    arrays = {name: torch.cat(parts, 1).cpu().numpy() for name, parts in found.items()}
    return {name: (both[0], both[1]) for name, both in arrays.items()}


def write_errors(path: Path, errors: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write a row for each window, condition and predicted frame; empty: no pixel moves."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, (mse, moving) in errors.items():
            for clip, t in np.ndindex(mse.shape):
                values = mse[clip, t], moving[clip, t]
                texts = ("" if np.isnan(x) else f"{x:.8g}" for x in values)
                writer.writerow([clip, name, t + 1, *texts])
