"""Pre-training: learn an action-free world model from video clips.

Reference: `examples/train_apv_pretraining.py`.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cwm.infra import ranks
from cwm.infra.checkpoint import save_weights
from cwm.infra.device import reseed, set_up
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir
from cwm.nn import whole_batch
from cwm.nn.batch import clip_batch
from cwm.nn.optim import Optimizer
from cwm.settings import ModelConfig, PretrainConfig, RuntimeConfig
from cwm.train import offline
from cwm.train.offline import Loss, Metrics, Schedule, Trained, fit
from cwm.train.prefetch import prefetch
from cwm.videos.store import ClipStore
from cwm.world.action_free import ActionFreeModel
from cwm.world.openloop import predict, squared_errors


def pretrain(
    runtime: RuntimeConfig, model: ModelConfig, cfg: PretrainConfig, clips: Path, run: RunDir
) -> None:
    """Train on the clip store `clips` and publish the weights.

    Every rank of a distributed run calls this; rank 0 alone evaluates and writes.
    """
    if not model.stacked:
        raise UserError("model.stacked is false: DreamerV2 cannot be pre-trained on videos")
    device = set_up(runtime)
    ranks.join(device, run.spec.identity)
    if ranks.current.size > 1 and runtime.compile:
        raise UserError("runtime.compile is not supported with several processes")
    share = whole_batch.share(cfg.batch)
    store = ClipStore.open(clips)
    if run.spec.parts:
        store.use_parts(run.spec.parts)
    windows = torch.as_tensor(store.windows(cfg.heldout_clips, cfg.length, "heldout", cfg.seed))
    reseed(cfg.seed, "weights")
    world = ActionFreeModel(model, cfg.world).to(device)
    whole_batch.synchronise_norms(world)
    optimizer = Optimizer(cfg.optimizer, world.parameters())
    trained = Trained(world, {"optimizer": optimizer})
    start = trained.resume(run)
    learn = learner(world, optimizer, runtime, device)
    precision = torch.autocast(device, torch.bfloat16, enabled=runtime.precision == "bf16")

    def update(_: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return learn(batch["image"])

    def evaluate() -> Metrics:
        if ranks.current.rank:
            return {}
        with ranks.alone(), precision:
            return heldout(world, windows, cfg.batch, device)

    images = prefetch(store, cfg.seed, start, cfg.batch, cfg.length, device, share)
    batches = ((i, {"image": image}) for i, image in images)
    schedule = Schedule(cfg.updates, cfg.log_every, cfg.heldout_every)
    fit(trained, schedule, start, cfg.seed, batches, update, evaluate, run, device)
    ranks.leave()
    if ranks.started_rank():
        return
    about = {"kind": "action-free", "updates": cfg.updates, **run.spec.labels}
    save_weights(run.folder, world.state_dict(), about)
    run.publish("metrics.jsonl", "timing.jsonl", "weights.safetensors", "weights.json")


def learner(
    world: ActionFreeModel, optimizer: Optimizer, runtime: RuntimeConfig, device: str
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Build the update: images (B, T, 64, 64, 3) uint8 -> metrics, all ()."""

    def loss(image: Tensor) -> Loss:
        output = world.loss(clip_batch(image))
        return output.loss, output.terms

    return offline.learner(Trained(world, {"optimizer": optimizer}), loss, runtime, device)


@torch.no_grad()
def heldout(
    world: ActionFreeModel, windows: Tensor, batch: int, device: str
) -> dict[str, Tensor | float]:
    """Mean loss terms of clips (N, T, 64, 64, 3), without token masking and dropout.

    Also the errors of predicting the second half of each clip from the first half.
    """
    world.eval()
    parts = [clip_batch(part) for part in windows.to(device).split(batch)]
    terms = [(len(part.image), world.loss(part).terms) for part in parts]
    metrics = {
        f"heldout/{name}": sum(n * term[name] for n, term in terms) / len(windows)
        for name in ("image", "kl")
    }
    observed = windows.shape[1] // 2
    errors = [squared_errors(predict(world, part, observed), part, observed) for part in parts]
    means = {name: torch.cat([e[name] for e in errors]).nanmean() for name in errors[0]}
    return metrics | {f"heldout/{name}": x for name, x in means.items() if not x.isnan()}
