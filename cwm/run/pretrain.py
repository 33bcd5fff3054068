"""Clips -> a pre-trained world model.

Reference: `examples/train_apv_pretraining.py`.
"""

from pathlib import Path

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from cwm.checkpoint import save_weights
from cwm.data.batch import clip_batch
from cwm.data.clips import ClipStore, prefetch
from cwm.errors import UserError
from cwm.optim import Optimizer, OptimizerConfig, step_all
from cwm.progress import Progress
from cwm.run.folder import Run
from cwm.runtime import RuntimeConfig, reseed, set_up
from cwm.world.action_free import ActionFreeConfig, ActionFreeModel
from cwm.world.vision import ModelConfig


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PretrainConfig:
    """Pre-training of the action-free model on clips."""

    world: ActionFreeConfig = ActionFreeConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    updates: int = 1_200_000
    batch: int = 16
    length: int = 25
    seed: int = 0
    log_every: int = 100  # updates
    heldout_every: int = 5000  # updates between looks at held-out clips
    heldout_clips: int = 64
    checkpoint_seconds: float = 300.0


def pretrain(
    runtime: RuntimeConfig, model: ModelConfig, cfg: PretrainConfig, clips: Path, run: Run
) -> None:
    """Train on the clip store `clips` and publish the weights."""
    if not model.stacked:
        raise UserError("model.stacked is false: DreamerV2 has no part that learns from videos")
    device = set_up(runtime)
    store = ClipStore.open(clips)
    reseed(cfg.seed, "weights")
    world = ActionFreeModel(model, cfg.world).to(device)
    optimizer = Optimizer(cfg.optimizer, world.parameters())
    start = 0
    if resumed := run.resume():
        tensors, state = resumed
        world.load_state_dict(tensors["world"])
        optimizer.load_state(tensors["optimizer"])
        start = state["step"]

    def save(step: int) -> None:
        run.checkpoint(step, {"world": world.state_dict(), "optimizer": optimizer.state()})

    def autocast() -> torch.autocast:
        return torch.autocast(device, torch.bfloat16, enabled=runtime.precision == "bf16")

    def heldout() -> dict[str, torch.Tensor]:
        """Mean loss terms on held-out clips, with the whole context and without dropout."""
        windows = torch.as_tensor(store.windows(cfg.heldout_clips, cfg.length, "heldout", cfg.seed))
        world.eval()
        reseed(cfg.seed, "heldout")
        parts = windows.to(device).split(cfg.batch)
        with torch.no_grad(), autocast():
            terms = [(len(part), world.loss(clip_batch(part)).terms) for part in parts]
        return {
            f"heldout/{name}": sum(n * t[name] for n, t in terms) / len(windows)
            for name in ("image", "kl")
        }

    batches = prefetch(store, cfg.seed, start, cfg.batch, cfg.length)
    with Progress(total=cfg.updates, start=start, label=run.label) as bar:
        for i, image in batches:
            if i == cfg.updates:
                break
            reseed(cfg.seed, "update", i)
            world.train()
            with autocast():
                watched = world.loss(clip_batch(torch.as_tensor(image, device=device)))
            (norm,) = step_all(watched.loss, [optimizer], [False])
            step = i + 1
            figures = {}
            if step % cfg.log_every == 0 or step == cfg.updates:
                terms = watched.terms | {"norm": norm}
                figures = {f"train/{n}": x.detach() for n, x in terms.items()}
            if step % cfg.heldout_every == 0 or step == cfg.updates:
                figures |= heldout()
            values = run.log(step, figures, bar.rate) if figures else {}
            bar.update(
                step,
                {
                    n.removeprefix("train/"): x
                    for n, x in values.items()
                    if n in ("train/image", "train/kl", "heldout/image")
                },
            )
            if run.due() and step < cfg.updates:
                save(step)
    world.eval()
    about = {"kind": "action-free", "updates": cfg.updates, **run.task.labels}
    save_weights(run.folder, world, about)
    run.publish("metrics.jsonl", "timing.jsonl", "weights.safetensors", "weights.json")
