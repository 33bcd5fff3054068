"""Updates of the official code and of ours in one run: python bench/reference.py --reference DIR

    python bench/reference.py --reference DIR --cases metaworld --depth 8 --width 128 --latents 8

DIR is a checkout of github.com/thuml/ContextWM. Both have the same sizes (the numbers of parameters
are compared), episodes, clips, threads and torch. Each runs in its own process; updates alternate.
An update includes its batch: from the official replay, or from JPEG files read by worker processes;
from our replay, or from the clip store, prefetched by a thread. Each draws its own windows. The
queue of the bonus is full, as in most of a run; contexts are not augmented.

All contenders share one GPU. There, official fp16 skips Adam while its loss scaler searches for a
scale, in the first updates; our float32 products are TF32; and the memory of a CUDA graph counts as
reserved, not as allocated.

The official code trains in float16 with its loss scaler on a GPU, and in float32 on a CPU; here it
also runs in bfloat16 by autocast. A ratio is the time of an official update divided by that of ours
in the same round.
"""

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, TypeVar
from unittest.mock import MagicMock, patch

import numpy as np
import torch
import yaml
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench import inputs, update
from bench.record import Record
from cwm import config
from cwm.infra.device import claim_gpu, reseed, set_up
from cwm.infra.source import commit_of
from cwm.train.replay import Episode

# The official code imports these for types, and for augmentations that are not used here.
NOT_NEEDED = ("kornia", "torchtyping", "torchvision", "torchvision.transforms", "typeguard")
WARM_UP = {"cpu": 1, "cuda": 3}  # updates; on a GPU kernels are chosen first


class Case(NamedTuple):
    """Settings of both; the batch is the paper's, or a smaller one on a CPU."""

    stage: str
    official: str  # name of its config
    suite: str | None  # of ours
    task: str | None
    actions: int
    batch: int
    small_batch: int
    length: int


CASES = {
    "pretrain": Case("pretrain", "something_pretrain", None, None, 1, 16, 16, 25),
    "metaworld": Case("finetune", "metaworld", "metaworld", "drawer-open", 4, 50, 8, 50),
    "dmcr": Case("finetune", "dmc_remastered", "dmc-remastered", "walker-run", 6, 16, 8, 50),
}
T = TypeVar("T")


class Sizes(NamedTuple):
    """Sizes of the networks and of a batch."""

    depth: int
    width: int
    latents: int
    units: int
    batch: int
    length: int


class Contender(NamedTuple):
    """An implementation whose updates are timed."""

    name: str
    update: Callable[[], object]
    parameters: int
    device: str


_contender: Contender  # of a contender's process
_peak: update.Peak


def load(folder: Path) -> ModuleType:
    """Import the official package with current torch, replacing dependencies that are unused."""
    if not (folder / "wmlib").is_dir():
        sys.exit(f"{folder} is not a checkout of the official code: it has no folder wmlib")
    for name in NOT_NEEDED:
        sys.modules.setdefault(name, MagicMock())
    warnings.filterwarnings("ignore", module=r"wmlib\.")
    sys.path.insert(0, str(folder))
    wmlib = importlib.import_module("wmlib")
    for part in ("agents", "datasets", "utils"):
        importlib.import_module(f"wmlib.{part}")
    # Its schedule passes an argument that torch no longer accepts.
    wmlib.core.ConstantLR = lambda optimizer, factor, total_iters: (
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1.0 if i >= total_iters else factor)
    )
    return wmlib


def numbers(values: Any) -> Any:
    """PyYAML reads 3e-4 as text."""
    if isinstance(values, dict):
        return {name: numbers(value) for name, value in values.items()}
    with contextlib.suppress(ValueError, TypeError):
        return float(values) if isinstance(values, str) else values
    return values


def official_config(wmlib: ModuleType, case: Case, context: bool, sizes: Sizes) -> Any:
    """The official settings at these sizes."""
    name = "apv_pretraining" if case.stage == "pretrain" else "apv_finetuning"
    root = Path(wmlib.__file__).parents[1]
    configs = numbers(yaml.safe_load((root / f"configs/{name}.yaml").read_text()))
    result = wmlib.utils.Config(configs["defaults"])
    for layer in [case.official, "contextualized" if context else "plainresnet"]:
        result = result.update(configs[layer])
    result = result.update({"dataset.batch": sizes.batch, "dataset.length": sizes.length})
    changes = {"encoder.cnn_depth": sizes.depth, "decoder.cnn_depth": sizes.depth}
    changes |= {"encoder_ctx.ctx_cnn_depth": sizes.depth}
    changes |= {"replay.minlen": sizes.length, "replay.maxlen": sizes.length}
    models = ["rssm"]
    if case.stage == "finetune":
        models += ["af_rssm"]
        changes |= {f"{head}.units": sizes.units for head in ("reward_head", "actor", "critic")}
        changes |= {"loss_scales.aux_reward": float(context)}
    for model in models:
        changes |= {f"{model}.{name}": sizes.width for name in ("hidden", "deter")}
        changes |= {f"{model}.{name}": sizes.latents for name in ("stoch", "discrete")}
    return result.update(changes)


def official(
    wmlib: ModuleType,
    cfg: Any,
    case: Case,
    precision: str,
    batches: Callable[[], Iterator[dict[str, torch.Tensor]]],
    device: str,
) -> Contender:
    """The official agent, built and fed as its scripts do; fp16 is its own mixed precision."""
    shapes = {"image": (64, 64, 3)}
    shapes |= dict.fromkeys(("reward", "is_first", "is_last", "is_terminal"), ())
    observed = {name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}
    acted = {"action": SimpleNamespace(shape=(case.actions,))}
    kind = "APV_Pretrain" if case.stage == "pretrain" else "APV_Finetune"
    half = precision == "fp16"
    dtype = torch.float16 if half else torch.float32
    wmlib.ENABLE_FP16 = half
    with contextlib.redirect_stdout(io.StringIO()):
        agent = getattr(wmlib.agents, kind)(cfg, observed, acted, wmlib.utils.Counter(0))
        agent = agent.to(device)
        agent.init_optimizers()
    bonus = getattr(agent.wm, "intr_bonus", None)
    if bonus is not None:
        bonus.queue.normal_()
        bonus.tf_queue_step = len(bonus.queue)
    train, stream = wmlib.CarryOverState(agent.train), batches()
    torch.backends.cudnn.deterministic = True  # as its scripts say, and benchmark too
    torch.backends.cudnn.benchmark = True
    autocast = partial(torch.autocast, device, torch.bfloat16)
    switched = patch.object(torch.cuda.amp, "autocast", lambda enabled: autocast())

    def take() -> None:
        batch = {name: x.to(device=device, dtype=dtype) for name, x in next(stream).items()}
        with switched if precision == "bf16" else contextlib.nullcontext():
            train(batch)

    return Contender(f"official {precision}", take, learned(agent), device)


def our_own(precision: str, subject: update.Subject, device: str) -> Contender:
    owner = next(part.owner for part in subject.parts if part.name == "losses")
    agents = [part.owner for part in subject.parts if part.method == "_update_behavior"]
    for agent in agents:
        if agent.bonus is not None:
            agent.bonus.queue.normal_()
            agent.bonus.filled.fill_(len(agent.bonus.queue))
    module = agents[0] if agents else owner
    return Contender(f"ours {precision}", subject.whole, learned(module), device)


def learned(module: nn.Module) -> int:
    """Parameters that learn; the critic's slow target is a copy."""
    named = module.named_parameters()
    return sum(x.numel() for name, x in named if x.requires_grad and "target" not in name)


def our_config(
    case: Case, model: str, sizes: Sizes, precision: str, options: argparse.Namespace
) -> config.Config:
    """Our settings at these sizes."""
    sets = [f"model.vision.depth={sizes.depth}", f"runtime.precision={precision}"]
    sets += [f"runtime.threads={options.threads}", f"runtime.compile={options.compile}"]
    sets += [f"model.rssm.{name}={sizes.width}" for name in ("hidden", "deter")]
    sets += [f"model.rssm.{name}={sizes.latents}" for name in ("stoch", "classes")]
    sets += [f"{case.stage}.batch={sizes.batch}", f"{case.stage}.length={sizes.length}"]
    heads = ("world.head", "behavior.actor", "behavior.critic")
    sets += [f"finetune.agent.{head}.units={sizes.units}" for head in heads]
    names = {"suite": case.suite, "scale": "paper", "model": model}
    files = [update.CONFIG / folder / f"{name}.yaml" for folder, name in names.items() if name]
    return config.load(files, sets, case.task)


def official_clips(
    wmlib: ModuleType, folder: Path, clips: int, frames: int, cfg: Any, workers: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of JPEG files, read by the official dataset."""
    names = folder / "videos.txt"
    names.write_text("".join(f"{clip} {frames} 0\n" for clip in range(clips)))
    with contextlib.redirect_stdout(io.StringIO()):
        videos = wmlib.datasets.SomethingV2(str(folder), str(names), int(cfg.dataset["length"]))
    source = wmlib.datasets.DummyReplay(videos)
    pin = torch.cuda.is_available()
    return iter(source.dataset(**cfg.dataset, num_workers=workers, pin_memory=pin))


def official_replay(
    wmlib: ModuleType, folder: Path, episodes: list[Episode], cfg: Any
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of episodes from the official replay, which has no workers."""
    replay = wmlib.Replay(Path(tempfile.mkdtemp(dir=folder)), **cfg.replay)
    for episode in episodes:
        names = ("is_first", "is_last", "is_terminal")
        flags = {name: np.zeros(len(episode.reward), bool) for name in names}
        flags["is_first"][0] = flags["is_last"][-1] = True
        replay.add_episode(episode._asdict() | flags)
    return iter(replay.dataset(**cfg.dataset, pin_memory=torch.cuda.is_available()))


def contender(
    whose: str, precision: str, case: Case, sizes: Sizes, options: argparse.Namespace, folder: Path
) -> Contender:
    """A contender with its data."""
    cfg = our_config(case, options.model, sizes, precision.replace("fp16", "bf16"), options)
    reseed(0)
    frames, length = 2 * sizes.length, 5 * sizes.length
    if whose == "ours":
        device = set_up(cfg.runtime)
        if case.stage == "pretrain":
            store = inputs.clip_store(folder, update.CLIPS, frames)
            return our_own(precision, update.pretraining(cfg, device, store), device)
        episodes = inputs.episodes(update.EPISODES, length, case.actions)
        subject = update.finetuning(cfg, device, episodes, folder / "replay", case.actions)
        return our_own(precision, subject, device)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(options.threads)
    multiprocessing.set_start_method("fork", force=True)  # its datasets know no other
    wmlib = load(options.reference)
    theirs = official_config(wmlib, case, options.model == "contextwm", sizes)
    if case.stage == "pretrain":
        inputs.jpeg_clips(folder / "jpeg", inputs.clip_store(folder, update.CLIPS, frames))
        about = (folder / "jpeg", update.CLIPS, frames, theirs, options.workers)
        batches = partial(official_clips, wmlib, *about)
    else:
        episodes = inputs.episodes(update.EPISODES, length, case.actions)
        batches = partial(official_replay, wmlib, folder, episodes, theirs)
    return official(wmlib, theirs, case, precision, batches, device)


class Remote:
    """A contender in a process of its own."""

    def __init__(self, *about: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, initializer=start, initargs=about)

    def call(self, function: Callable[[], T]) -> T:
        """The function's result in that process; if the process has died, end this program."""
        try:
            return self.pool.submit(function).result()
        except BrokenProcessPool:
            sys.exit("a contender died; its error is above")


def start(*about: Any) -> None:
    """Build this process's contender."""
    global _contender, _peak
    _contender = contender(*about)
    _peak = update.Peak(_contender.device)


def describe() -> tuple[str, int]:
    """The name and the number of parameters of this process's contender."""
    return _contender.name, _contender.parameters


def take_update() -> tuple[float, dict[str, float]]:
    """Milliseconds of an update of this process's contender, and its peak memory in MiB."""
    return update.milliseconds(_contender.update, 1, _contender.device)[0], _peak.read()


def race(
    remotes: dict[str, Remote], rounds: int, warm_up: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Milliseconds of `rounds` updates each, taken in turn after some to warm up; peak memory."""
    taken: dict[str, list[float]] = {name: [] for name in remotes}
    memory: dict[str, dict[str, float]] = {}
    for number in range(-warm_up, rounds):
        for name, remote in remotes.items():
            spent, memory[name] = remote.call(take_update)
            if number >= 0:
                taken[name].append(spent)
    return taken, memory


def report(
    name: str, taken: dict[str, list[float]], memory: dict[str, dict[str, float]], record: Record
) -> None:
    for entry, times in taken.items():
        for peak, mib in memory[entry].items():
            record.add(f"{name}/{entry}/{peak}", mib, "MiB")
        add_range(f"{name}/{entry}", times, "ms", record)
    for a, b in product(taken, taken):
        if a.startswith("official") and b.startswith("ours"):
            ratios = [x / y for x, y in zip(taken[a], taken[b], strict=True)]
            add_range(f"{name}/{a} over {b}", ratios, "x", record)


def add_range(name: str, values: list[float], unit: str, record: Record) -> None:
    for what, reduce in (("median", statistics.median), ("least", min), ("most", max)):
        record.add(f"{name}/{what}", reduce(values), unit)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--model", default="contextwm", choices=["contextwm", "plain"])
    parser.add_argument("--batch", type=int, help="default: the paper's, smaller on a CPU")
    parser.add_argument("--length", type=int, help="default: the paper's")
    parser.add_argument("--depth", type=int, default=48, help="channels of the ResNets")
    parser.add_argument("--width", type=int, default=1024, help="of the recurrent models")
    parser.add_argument("--latents", type=int, default=32, help="variables, and classes of each")
    parser.add_argument("--units", type=int, default=400, help="of the heads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=8, help="that read the official JPEG files")
    parser.add_argument("--compile", action="store_true", help="compile ours")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=["bf16", "fp32"],
        help="of ours; default: bf16, on a CPU both",
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as locks:
        share_gpu(Path(locks))
        run(options)


def share_gpu(locks: Path) -> None:
    """Claim one GPU for all contenders, which share it by locks of their own in this folder."""
    claim_gpu()
    os.environ |= {"CWM_GPU_LOCKS": str(locks), "CWM_JOBS_PER_GPU": "4"}


def run(options: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.precisions = options.precisions or ["bf16"] + ["fp32"] * (device == "cpu")
    code = commit_of(options.reference, "wmlib/__init__.py")
    record = Record("reference", **vars(options) | {"reference": code})
    for name in options.cases:
        case = CASES[name]
        batch = options.batch or (case.small_batch if device == "cpu" else case.batch)
        given = (options.depth, options.width, options.latents, options.units)
        sizes = Sizes(*given, batch, options.length or case.length)
        entries = [("official", "fp16" if device == "cuda" else "fp32"), ("official", "bf16")]
        entries += [("ours", precision) for precision in options.precisions]
        with contextlib.ExitStack() as stack:
            remotes, parameters = {}, {}
            for whose, precision in entries:
                folder = Path(
                    stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
                )
                remote = Remote(whose, precision, case, sizes, options, folder)
                stack.enter_context(remote.pool)
                entry, count = remote.call(describe)
                parameters[entry] = count
                remotes[entry] = remote
            if len(set(parameters.values())) > 1:
                sys.exit(f"these models differ, by their numbers of parameters: {parameters}")
            print(f"\n{name}, {options.model}: {sizes._asdict()}, {count:,} parameters")
            print(f"{device}, threads {options.threads}, {options.rounds} updates each, in turn")
            report(name, *race(remotes, options.rounds, WARM_UP[device]), record)
    record.save()


if __name__ == "__main__":
    main()
