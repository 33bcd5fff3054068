"""Milliseconds per update of pre-training and of fine-tuning, by scale and model.

    python bench/update.py [--scales smoke laptop] [--updates 5]

One process, the settings' own number of threads, random frames; batch assembly is not counted
(see bench/loader.py). Timings on a shared machine are good for ratios within one table only.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cwm import config
from cwm.agent import Agent
from cwm.data.batch import Batch, clip_batch
from cwm.optim import Optimizer, step_all
from cwm.runtime import reseed, set_up
from cwm.world.action_free import ActionFreeModel

CONFIG = Path(__file__).parents[1] / "config"
MODELS = ("contextwm", "plain", "dreamer")
WARM_UP = 2
ACTIONS = 4


def frames(batch: int, length: int, device: str) -> torch.Tensor:
    return torch.randint(0, 256, (batch, length, 64, 64, 3), dtype=torch.uint8, device=device)


def pretraining(cfg: config.Config, device: str) -> Callable[[], object]:
    world = ActionFreeModel(cfg.model, cfg.pretrain.world).to(device).train()
    optimizer = Optimizer(cfg.pretrain.optimizer, world.parameters())
    clips = clip_batch(frames(cfg.pretrain.batch, cfg.pretrain.length, device))
    half = cfg.runtime.precision == "bf16"

    def update() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = world.loss(clips).loss
        step_all(loss, [optimizer], [False])

    return update


def finetuning(cfg: config.Config, device: str) -> Callable[[], object]:
    agent = Agent(cfg.model, cfg.finetune.agent, ACTIONS, cfg.runtime.precision).to(device)
    shape = (cfg.finetune.batch, cfg.finetune.length)
    clips = clip_batch(frames(*shape, device))
    action = torch.rand(*shape, ACTIONS, device=device) * 2 - 1
    batch = Batch(*clips[:2], action, torch.rand(shape, device=device))
    return lambda: agent.update(batch)


def milliseconds(update: Callable[[], object], updates: int, device: str) -> list[float]:
    taken = []
    for _ in range(WARM_UP + updates):
        start = time.perf_counter()
        update()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - start))
    return taken[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scales", nargs="+", default=["smoke", "laptop"])
    parser.add_argument("--updates", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'scale':9}{'stage':12}{'model':12}{'batch':>9}{'median ms':>11}{'fastest':>9}")
    for scale in arguments.scales:
        for model in MODELS:
            files = [CONFIG / "scale" / f"{scale}.yaml", CONFIG / "model" / f"{model}.yaml"]
            cfg = config.load(files)
            device = set_up(cfg.runtime)
            reseed(0)
            stages = {
                "pretrain": (pretraining, cfg.pretrain),
                "finetune": (finetuning, cfg.finetune),
            }
            for stage, (make, sizes) in stages.items():
                if stage == "pretrain" and not cfg.model.stacked:
                    continue
                taken = milliseconds(make(cfg, device), arguments.updates, device)
                batch = f"{sizes.batch}x{sizes.length}"
                median, fastest = statistics.median(taken), min(taken)
                print(f"{scale:9}{stage:12}{model:12}{batch:>9}{median:>11.1f}{fastest:>9.1f}")


if __name__ == "__main__":
    main()
