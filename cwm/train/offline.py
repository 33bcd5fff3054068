"""Training on stored data alone: the loop of pre-training and of adaptation.

A batch is a dictionary of tensors. Its number determines it, so resuming needs no generator state.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cwm.infra import ranks
from cwm.infra.checkpoint import load_strict
from cwm.infra.cuda_graph import CapturedFunction
from cwm.infra.device import reseed
from cwm.infra.progress import Progress
from cwm.infra.run_dir import RunDir
from cwm.nn.optim import Optimizer, step_all
from cwm.settings import RuntimeConfig
from cwm.train.compiled import compile_regions
from cwm.train.nan_guard import NaNGuard

Metrics = Mapping[str, Tensor | float]
Loss = tuple[Tensor, dict[str, Tensor]]  # the loss () and its terms, all ()
SHOWN = {"train/image": "image", "train/kl": "kl", "heldout/image": "held out"}


class Schedule(NamedTuple):
    """Numbers of updates."""

    updates: int
    log_every: int
    heldout_every: int


class Trained(NamedTuple):
    """What a checkpoint holds."""

    world: nn.Module
    optimizers: dict[str, Optimizer]  # by name, which ends in `optimizer`

    def resume(self, run: RunDir) -> int:
        """Load the last checkpoint, on all ranks; returns the updates done."""
        step = 0
        if resumed := run.resume():
            tensors, state = resumed
            with run.checkpoints.restoring():
                load_strict(self.world, tensors["world"])
                for name, optimizer in self.optimizers.items():
                    optimizer.load_state(tensors[name])
            step = state["step"]
        return ranks.follow_first(step, self.tensors())

    def save(self, run: RunDir, step: int) -> None:
        """Write a checkpoint."""
        run.checkpoint(step, self.state())

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All tensors that an update changes, in groups."""
        states = {name: optimizer.state() for name, optimizer in self.optimizers.items()}
        return {"world": self.world.state_dict(), **states}

    def tensors(self) -> Iterator[Tensor]:
        """Yield these tensors."""
        for group in self.state().values():
            yield from group.values()


def learner(
    trained: Trained,
    loss: Callable[..., Loss],
    runtime: RuntimeConfig,
    device: str,
) -> Callable[..., dict[str, Tensor]]:
    """Build the update: arguments of `loss`, which returns loss and terms -> metrics, all ().

    With several ranks it is not captured as a CUDA graph.
    """
    world, optimizers = trained
    precision = torch.autocast(device, torch.bfloat16, enabled=runtime.precision == "bf16")

    def learn(*batch: Tensor | None) -> dict[str, Tensor]:
        with precision:
            value, terms = loss(*batch)
        norms = step_all(value, list(optimizers.values()))
        named = (f"{name.removesuffix('optimizer')}norm" for name in optimizers)
        terms = terms | dict(zip(named, norms, strict=True))
        means = ranks.average([x.detach() for x in terms.values()])
        return {f"train/{name}": x for name, x in zip(terms, means, strict=True)}

    if runtime.compile:
        compile_regions(world)
    if device == "cuda" and runtime.graphs and ranks.current.size == 1:
        return CapturedFunction(learn, trained.tensors)
    return learn


def fit(
    trained: Trained,
    schedule: Schedule,
    start: int,
    seed: int,
    batches: Iterator[tuple[int, dict[str, Tensor]]],
    update: Callable[[int, dict[str, Tensor]], dict[str, Tensor]],
    heldout: Callable[[], Metrics],
    run: RunDir,
    device: str,
) -> None:
    """Do the updates from `start` + 1; log, evaluate and write checkpoints.

    update: number of the update and its batch -> metrics, all (). heldout: of held-out data.
    """
    guard = NaNGuard(run, device)
    with Progress(schedule.updates, start, run.label, run.console) as bar:
        for step in range(start + 1, schedule.updates + 1):
            _, batch = next(batches)
            reseed(seed, "update", step)
            trained.world.train()
            terms = update(step, batch)
            metrics: dict[str, Tensor | float] = {}
            guard.record(step, terms, batch)
            if step % schedule.log_every == 0 or step == schedule.updates:
                guard.check()
                metrics |= terms
            if step % schedule.heldout_every == 0 or step == schedule.updates:
                reseed(seed, "heldout", step)
                metrics |= heldout()
            values = run.log(step, metrics, bar.rate) if metrics else {}
            bar.update(step, {SHOWN[name]: x for name, x in values.items() if name in SHOWN})
            if run.due() and step < schedule.updates:
                guard.check()
                trained.save(run, step)
