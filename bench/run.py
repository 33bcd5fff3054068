"""Where whole runs spend their time: python bench/run.py [--sets finetune.steps=600 ...]

It measures a pre-training and a fine-tuning run at laptop scale, tracked by MLflow (see parts.py).
Overhead is everything but updates, acting, environments and evaluation. Each run has a new process,
and start-up time counts from the start of that process.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

CONFIG = Path(__file__).parents[1] / "config"
WORK = ("update", "acting", "environment", "evaluation")
STAGES = ("pretrain", "finetune")


def age() -> float:
    """Seconds since this process started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def finetuning(files: list[Path], sets: list[str]) -> tuple[Any, list[Any]]:
    from bench.parts import Part
    from cwm import config
    from cwm.commands.run_spec import run_spec
    from cwm.infra.run_dir import RunDir
    from cwm.train.finetune import FinetuneLoop, finetune

    cfg = config.load(files, sets, "sphere")
    spec = run_spec("finetune", "toy/sphere", cfg, files, {}, 0)
    run = RunDir(spec, Path("out"), cfg.finetune.checkpoint_seconds)
    run.__enter__()
    loop = FinetuneLoop(cfg.runtime, cfg.model, cfg.env, cfg.finetune, None, run)
    named = [
        Part(loop.agent, "update", "update"),
        Part(loop.replay, "sample", "update"),
        Part(loop.agent, "act", "acting"),
        Part(loop, "evaluate", "evaluation"),
        Part(loop.eval_envs, "step", "evaluation"),
        Part(loop.env, "step", "environment"),
        Part(loop.env, "reset", "environment"),
        Part(run, "log", "logging"),
        Part(run, "score", "logging"),
        Part(loop, "save", "checkpoints"),
        Part(run, "publish", "publishing"),
    ]
    return lambda: finetune(loop), named


def pretraining(files: list[Path], sets: list[str]) -> tuple[Any, list[Any]]:
    from bench import inputs
    from bench.parts import Part
    from cwm import config
    from cwm.commands.run_spec import run_spec
    from cwm.infra.run_dir import RunDir
    from cwm.nn.optim import Optimizer
    from cwm.train import pretrain
    from cwm.world.action_free import ActionFreeModel

    cfg = config.load(files, sets)
    inputs.clip_store(Path(), 120, 40, heldout=12)
    spec = run_spec("pretrain", "something", cfg, files, {})
    run = RunDir(spec, Path("out"), cfg.pretrain.checkpoint_seconds)
    run.__enter__()
    named = [
        Part(ActionFreeModel, "loss", "update"),
        Part(Optimizer, "step", "update"),
        Part(pretrain, "heldout", "evaluation"),
        Part(run, "log", "logging"),
        Part(run, "checkpoint", "checkpoints"),
        Part(run, "publish", "publishing"),
    ]
    settings = (cfg.runtime, cfg.model, cfg.pretrain)
    return lambda: pretrain.pretrain(*settings, Path("store.json"), run), named


def spend(stage: str, sets: list[str]) -> tuple[float, float, dict[str, float]]:
    """Run a stage; seconds until it is ready, until its first update, and of each part."""
    from bench.parts import BACKWARD, measure
    from cwm.nn import optim

    first: list[float] = []
    step = optim.Optimizer.step

    def stepped(self: optim.Optimizer, gradients: Any) -> Any:
        norm = step(self, gradients)
        first.append(age())
        return norm

    names = {"suite": "toy", "scale": "laptop", "model": "contextwm", "variant": "standard"}
    names |= {"dataset": "something"} if stage == "pretrain" else {}
    files = [CONFIG / folder / f"{name}.yaml" for folder, name in names.items()]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        optim.Optimizer.step = stepped
        run, named = (finetuning if stage == "finetune" else pretraining)(files, sets)
        ready = age()
        spent: Counter[str] = Counter()
        for part, seconds in measure(run, named, time.perf_counter).items():
            spent["update" if part.endswith(BACKWARD) else part] += seconds
    return ready, first[0], dict(spent)


def main(arguments: list[str] | None = None) -> None:
    from bench.record import Record, in_new_process

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--sets", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    record = Record("run", **vars(options))
    for stage in options.stages:
        sets = [f"runtime.threads={options.threads}", *options.sets]
        ready, first, spent = in_new_process(spend, stage, sets)
        record.add(f"{stage}/ready", ready, "s")
        record.add(f"{stage}/first update", first, "s")
        for name, seconds in spent.items():
            record.add(f"{stage}/{name}", seconds, "s")
        outside = sum(seconds for name, seconds in spent.items() if name not in WORK)
        record.add(
            f"{stage}/outside of {', '.join(WORK)}", 100 * outside / sum(spent.values()), "%"
        )
    record.save()


if __name__ == "__main__":
    main()
