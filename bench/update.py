"""Time, memory and FLOPs of an update and its parts: python bench/update.py [--scales laptop]

    python bench/update.py --scales paper --stages finetune --updates 2 --sets finetune.batch=8

An update includes its batch: windows of the replay buffer, or prefetched clips. Its time is the
median of `--updates` plain updates. The times of the parts are medians of further passes (see
parts.py), scaled to add up to the whole. FLOPs are those of matrix products and convolutions. The
floor is the time that these FLOPs take at the rate of one large product in the same precision and
with the same threads. Operations are tensor operations without views. On a CPU, peak memory is
measured for the whole process; on a GPU, for GPU memory alone.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench import inputs, parts
from bench.parts import Part
from bench.record import Record, peak_memory
from cwm import config
from cwm.agent import Agent
from cwm.infra.cuda_graph import CapturedFunction
from cwm.infra.device import reseed, set_up
from cwm.nn.batch import Batch
from cwm.nn.optim import Optimizer
from cwm.train.compiled import compile_regions
from cwm.train.prefetch import prefetch
from cwm.train.pretrain import learner
from cwm.train.replay import Episode, Replay
from cwm.videos.store import ClipStore
from cwm.world.action_free import ActionFreeModel
from cwm.world.stacked import StackedModel

CONFIG = Path(__file__).parents[1] / "config"
MODELS = ("contextwm", "plain", "dreamer")
STAGES = ("pretrain", "finetune")
WARM_UP = 2
ACTIONS = 4
CLIPS, EPISODES = 32, 4


class Subject(NamedTuple):
    """An update to measure, and its parts."""

    whole: Callable[[], object]  # as a run calls it; a CUDA graph on a GPU
    update: Callable[[], object]  # the same without a graph, so that parts can be timed
    parts: list[Part]


class Feed:
    """Supplies batches; a class, so that `get` can be patched as a part of the update."""

    def __init__(self, get: Callable[[], Batch | torch.Tensor]) -> None:
        self.get = get


def pretraining(cfg: config.Config, device: str, store: ClipStore) -> Subject:
    """An update of `cwm pretrain`."""
    world = ActionFreeModel(cfg.model, cfg.pretrain.world).to(device).train()
    optimizer = Optimizer(cfg.pretrain.optimizer, world.parameters())
    clips = prefetch(store, 0, 0, cfg.pretrain.batch, cfg.pretrain.length, device)
    feed = Feed(lambda: next(clips)[1])
    learn = learner(world, optimizer, cfg.runtime, device)
    named = [Part(feed, "get", "batch"), Part(optimizer, "step", "optimisers")]
    named += [*world_parts(world), Part(world.rssm, "observe", "lower model")]
    return Subject(lambda: learn(feed.get()), lambda: eager(learn)(feed.get()), named)


def finetuning(
    cfg: config.Config, device: str, episodes: list[Episode], folder: Path, actions: int = ACTIONS
) -> Subject:
    """An update of `cwm finetune`."""
    agent = Agent(cfg.model, cfg.finetune.agent, actions, cfg.runtime.precision).to(device)
    if cfg.runtime.compile:
        compile_regions(agent)
    frames = sum(len(episode.reward) for episode in episodes)
    replay = Replay(cfg.finetune.replay, folder, cfg.finetune.length, frames, device)
    for episode in episodes:
        replay.add(episode)
    feed = Feed(lambda: replay.sample(0, agent.updates, cfg.finetune.batch))
    named = [Part(feed, "get", "batch")]
    named += [Part(optimizer, "step", "optimisers") for optimizer in agent.optimizers.values()]
    named += world_parts(agent.world)
    named.append(Part(agent.world.rssm, "observe", "upper model"))
    if agent.world.action_free is not None:
        named.append(Part(agent.world.action_free, "observe", "lower model"))
    if agent.bonus is not None:
        named.append(Part(agent.bonus, "forward", "bonus"))
    named.append(Part(agent, "_update_behavior", "actor and critic"))
    named.append(Part(agent.behavior, "losses", "actor and critic"))
    named.append(Part(agent.world, "imagine", "imagination"))
    if device == "cuda" and cfg.runtime.graphs:
        agent.capture()

    def update() -> None:
        with patch.object(agent, "learn", eager(agent.learn)):
            agent.update(feed.get())

    return Subject(lambda: agent.update(feed.get()), update, named)


def eager(function: Callable[..., object]) -> Callable[..., object]:
    """The function without its CUDA graph, if it has one."""
    return function.function if isinstance(function, CapturedFunction) else function


def world_parts(world: ActionFreeModel | StackedModel) -> list[Part]:
    """The parts that both world models share."""
    vision = world.vision
    named = [Part(world, "loss", "losses"), Part(vision, "pixels", "encoder")]
    named += [Part(vision, "embed", "encoder"), Part(vision.decoder, "forward", "decoder")]
    if vision.context is not None:
        named.append(Part(vision, "encode_context", "context"))
        named += [Part(x, "forward", "attention") for x in vision.decoder.attention.values()]
    return named


def milliseconds(update: Callable[[], object], updates: int, device: str) -> list[float]:
    taken = []
    for _ in range(updates):
        start = time.perf_counter()
        update()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - start))
    return taken


def product_rate(device: str, precision: str, rounds: int = 10) -> float:
    """FLOP/s of a large matrix product, the fastest of `rounds`."""
    size = 8192 if device == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, size, size, device=device, dtype=kind)
    return 2e3 * size**3 / min(milliseconds(lambda: a @ b, rounds, device))


class Peak:
    """Peak memory since construction, in MiB."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # reset the recorded peak

    def read(self) -> dict[str, float]:
        """Peak memory by kind. Memory of a CUDA graph counts as reserved, not as allocated."""
        if self.cuda:
            bytes_ = {
                "peak allocated": torch.cuda.max_memory_allocated(),
                "peak reserved": torch.cuda.max_memory_reserved(),
            }
            return {name: size / 2**20 for name, size in bytes_.items()}
        return {"peak memory": peak_memory()}


def report(
    name: str, make: Callable[[], Subject], frames: int, rate: float, device: str, record: Record
) -> None:
    """Measure and record one case, with `record.settings["updates"]` updates."""
    peak = Peak(device)
    whole, update, named = make()
    milliseconds(whole, WARM_UP, device)
    taken = milliseconds(whole, record.settings["updates"], device)
    memory = peak.read()
    median = statistics.median(taken)
    passes = [parts.milliseconds(update, named, device) for _ in taken]
    spent = {part: statistics.median(each[part] for each in passes) for part in passes[0]}
    work, calls = parts.flops(update, named), parts.operations(update, named)
    scale, total = median / sum(spent.values()), sum(work.values())
    values = {
        "whole": (median, "ms"),
        "fastest": (min(taken), "ms"),
        "slowest": (max(taken), "ms"),
        "frames": (1e3 * frames / median, "frames/s"),
        "work": (total / 1e9, "GFLOP"),
        "rate": (total / median / 1e6, "GFLOP/s"),
        "floor": (1e3 * total / rate, "ms"),
        "operations": (sum(calls.values()), "operations"),
    } | {what: (mib, "MiB") for what, mib in memory.items()}
    if device == "cuda":
        values["kernels"] = (parts.kernels(whole), "kernels")
    for part, own in spent.items():
        values[part] = (scale * own, "ms")
        values[f"{part}/work"] = (work.get(part, 0) / 1e9, "GFLOP")
        values[f"{part}/operations"] = (calls.get(part, 0), "operations")
    for what, (value, unit) in values.items():
        record.add(f"{name}/{what}", value, unit)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scales", nargs="+", default=["smoke", "laptop"])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=[], help="settings, as for `cwm --set`")
    options = parser.parse_args(arguments)
    record = Record("update", **vars(options))
    for scale in options.scales:
        for model in options.models:
            files = [CONFIG / "scale" / f"{scale}.yaml", CONFIG / "model" / f"{model}.yaml"]
            cfg = config.load(files, options.sets)
            device = set_up(cfg.runtime)
            rate = product_rate(device, cfg.runtime.precision)
            for stage in options.stages:
                if stage == "pretrain" and not cfg.model.stacked:
                    continue
                sizes = getattr(cfg, stage)
                about = f"{sizes.batch} x {sizes.length} frames, {device}, {cfg.runtime.precision}"
                print(f"\n{scale}/{model}/{stage}: {about}, {torch.get_num_threads()} threads")
                record.add(f"{scale}/{model}/{stage}/one large product", rate / 1e9, "GFLOP/s")
                reseed(0)
                with tempfile.TemporaryDirectory() as name:
                    make = subject(stage, cfg, device, Path(name))
                    frames = sizes.batch * sizes.length
                    report(f"{scale}/{model}/{stage}", make, frames, rate, device, record)
    record.save()


def subject(stage: str, cfg: config.Config, device: str, folder: Path) -> Callable[[], Subject]:
    """Build the update of a stage, on synthetic data in `folder`."""
    if stage == "pretrain":
        store = inputs.clip_store(folder, CLIPS, 2 * cfg.pretrain.length)
        return lambda: pretraining(cfg, device, store)
    episodes = inputs.episodes(EPISODES, 3 * cfg.finetune.length, ACTIONS)
    return lambda: finetuning(cfg, device, episodes, folder)


if __name__ == "__main__":
    main()
