"""Where whole runs spend their time: python bench/run.py [--sets finetune.steps=600 ...]

It measures a pre-training and a fine-tuning run at laptop scale, tracked by MLflow (see parts.py).
Overhead is everything but updates, acting, environments and evaluation. Each run has a new process,
and start-up time counts from the start of that process.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

CONFIG = Path(__file__).parents[1] / "config"
WORK = ("update", "acting", "environment", "evaluation")
SHOWN = {"finetune": "toy/sphere", "pretrain": "something"}


def age() -> float:
    """Seconds since this process started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    return now - ticks / os.sysconf("SC_CLK_TCK")


def finetuning(files: list[Path], sets: list[str]) -> tuple[Any, list[Any], Any]:
    from bench.parts import Part
    from cwm import config
    from cwm.commands.run_spec import run_spec
    from cwm.infra.run_dir import RunDir
    from cwm.train.finetune import FinetuneLoop, finetune

    cfg = config.load(files, sets, "sphere")
    what = run_spec("finetune", SHOWN["finetune"], cfg, files, {}, 0)
    run = RunDir(what, Path("out"), cfg.finetune.checkpoint_seconds)
    run.__enter__()
    work = FinetuneLoop(cfg.runtime, cfg.model, cfg.env, cfg.finetune, None, run)
    named = [Part(work.agent, "update", "update"), Part(work.replay, "sample", "update")]
    named += [Part(work.agent, "act", "acting"), Part(work, "evaluate", "evaluation")]
    named += [Part(work.env, "step", "environment"), Part(work.env, "reset", "environment")]
    named += [Part(work.eval_envs, "step", "evaluation"), Part(run, "log", "logging")]
    named += [Part(run, "score", "logging"), Part(work, "save", "checkpoints")]
    named += [Part(run, "publish", "publishing")]
    return lambda: finetune(work), named, work.agent


def pretraining(files: list[Path], sets: list[str]) -> tuple[Any, list[Any], Any]:
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
    clips = Path("store.json")
    what = run_spec("pretrain", SHOWN["pretrain"], cfg, files, {})
    run = RunDir(what, Path("out"), cfg.pretrain.checkpoint_seconds)
    run.__enter__()
    named = [Part(ActionFreeModel, "loss", "update"), Part(Optimizer, "step", "update")]
    named += [Part(pretrain, "heldout", "evaluation"), Part(run, "log", "logging")]
    named += [Part(run, "checkpoint", "checkpoints"), Part(run, "publish", "publishing")]
    runtime, model, pretraining = cfg.runtime, cfg.model, cfg.pretrain
    return lambda: pretrain.pretrain(runtime, model, pretraining, clips, run), named, None


def spend(stage: str, sets: list[str], threads: int, pipe: Any) -> None:
    """Run a stage in a temporary folder and send its times through the pipe."""
    from bench.parts import measure
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
        make = finetuning if stage == "finetune" else pretraining
        go, named, _ = make(files, [f"runtime.threads={threads}", *sets])
        ready = age()
        spent = measure(go, named, time.perf_counter)
    pipe.send((ready, first[0], spent))


def main(arguments: list[str] | None = None) -> None:
    from bench.record import Record

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", default=["pretrain", "finetune"])
    parser.add_argument("--sets", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    record = Record("run", **vars(options))
    context = multiprocessing.get_context("spawn")
    for stage in options.stages:
        mine, theirs = context.Pipe()
        about = (stage, options.sets, options.threads, theirs)
        context.Process(target=spend, args=about).start()
        theirs.close()
        ready, first, spent = mine.recv()
        parts: dict[str, float] = {}
        for name, seconds in spent.items():
            name = "update" if "backward" in name else name
            parts[name] = parts.get(name, 0.0) + seconds
        whole = sum(parts.values())
        outside = sum(seconds for name, seconds in parts.items() if name not in WORK)
        print(f"{stage} {SHOWN[stage]}: ready after {ready:.1f} s, first update at {first:.1f} s")
        record.add(f"{stage}/ready", ready, "s")
        record.add(f"{stage}/first update", first, "s")
        for name, seconds in sorted(parts.items(), key=lambda part: -part[1]):
            print(f"  {name:12}{seconds:8.1f} s{seconds / whole:8.1%}")
            record.add(f"{stage}/{name}", seconds, "s")
        print(f"  outside of {', '.join(WORK)}: {outside / whole:.1%}")
        record.add(f"{stage}/outside", 100 * outside / whole, "%")
    record.save()


if __name__ == "__main__":
    main()
