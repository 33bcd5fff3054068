"""What `cwm plan` counts with: python bench/costs.py [laptop ...] adds to cwm/costs.csv

Every unit that a scale's study is made of (cwm/plan.py) is measured by itself, `--rounds` times:
processor time on a CPU, time on a GPU. A row holds the median, the extremes, and the bytes that a
clip or a run leaves. A few minutes for each scale on a CPU; the paper's wants a GPU. After a change
of the code's speed: `--anew`.
"""

import argparse
import csv
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench import inputs, record, update
from cwm import plan, study
from cwm.agent import Agent
from cwm.infra.device import set_up
from cwm.infra.files import write_lines
from cwm.infra.run_dir import processor_seconds
from cwm.infra.source import git_commit
from cwm.train.policies import AgentPolicy
from cwm.train.pretrain import heldout
from cwm.train.rollout import Collector, evaluate, make, make_vector
from cwm.videos.datasets import DatasetConfig, describe, find
from cwm.videos.decode import decode_part
from cwm.world.action_free import ActionFreeModel

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "cwm/costs.csv"
UPDATES, STEPS, CLIPS = 3, 20, 4  # in a round
COLUMNS = (
    "what",
    "of",
    "settings",
    "seconds",
    "low",
    "high",
    "bytes",
    "rounds",
    "machine",
    "commit",
)
FILES = "config/suite/toy.yaml config/scale/smoke.yaml config/model/contextwm.yaml"
NOTHING = "--set baselines.episodes=1 --set baselines.untrained=0"
PUBLISHED = ROOT / "results/published/evidence/finetune/toy/sphere"

Work = tuple[Callable[[], object], int, float]  # does some units; how many; bytes that each leaves


def seconds(device: str) -> float:
    """A clock: of this process and its ended children, or on a GPU of the world."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return processor_seconds()


def size(module: nn.Module) -> int:
    return sum(x.numel() * x.element_size() for x in module.state_dict().values())


def below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def repeat(once: Callable[[], object], times: int) -> Callable[[], object]:
    return lambda: [once() for _ in range(times)]


def jobs(folder: Path, *commands: str) -> Callable[[], object]:
    """Commands as Snakemake would start them, in a folder with the settings in it."""
    if not (folder / "config").exists():
        (folder / "config").symlink_to(ROOT / "config")

    def run() -> None:
        for words in commands:
            command = [sys.executable, "-c", "from cwm import cli; cli.main()", *words.split()]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

    return run


def filming(name: str, folder: Path) -> Callable[[int], int]:
    """What films clip number i of a stand-in, and returns its bytes."""
    module = import_module(f"cwm.videos.synthetic.{name}")

    def film(clip: int) -> int:
        path = folder / module.file_name(clip)
        module.write(path, module.render(0, clip))
        return below(path) if path.is_dir() else path.stat().st_size

    return film


def work(unit: plan.Unit, folder: Path, device: str) -> Work:
    """What does a unit, made ready in an empty folder."""
    cfg = unit.cfg
    match unit.what:
        case "start":  # the shortest run that there is
            return jobs(folder, f"baselines toy/blob {FILES} {NOTHING} --out run"), 1, 0
        case "draw":
            runs = " ".join(map(str, sorted(PUBLISHED.rglob("scores.csv"))))
            study = "--study config/study/evidence.yaml"
            table = f"table learning_sphere scores.csv {study} --out table"
            jobs(folder, f"scores {runs} --out scores.csv", table)()
            draw = f"figure learning_sphere table.csv scores.csv {study} --out figure"
            return jobs(folder, draw), 1, 0
        case "film":
            film, numbers = filming(unit.of, folder), itertools.count()
            return repeat(lambda: film(next(numbers)), CLIPS), CLIPS, film(10**6)
        case "decode":
            film, numbers = filming(unit.of, folder / "videos"), itertools.count()
            for clip in range(CLIPS):
                film(clip)
            out, videos = (folder / f"clips{i}" for i in numbers), folder / "videos.jsonl"
            cfg = DatasetConfig(kinds=("video", "stills"), parts=1, min_frames=1)
            found = find(folder / "videos", cfg)
            write_lines(videos, "videos", [describe(folder / "videos", x, cfg) for x in found])
            decode = partial(decode_part, unit.of, cfg, videos, 0)
            decode(first := next(out), 1)
            return (lambda: decode(next(out), 1)), CLIPS, below(first) / CLIPS
        case "pretrain":
            store = inputs.clip_store(folder, update.CLIPS, 2 * cfg.pretrain.length)
            step = update.pretraining(cfg, device, store).whole
            return (
                repeat(step, UPDATES),
                UPDATES,
                size(ActionFreeModel(cfg.model, cfg.pretrain.world)),
            )
        case "watch":
            world = ActionFreeModel(cfg.model, cfg.pretrain.world).to(device)
            store = inputs.clip_store(folder, cfg.pretrain.batch, cfg.pretrain.length)
            windows = torch.as_tensor(
                store.windows(cfg.pretrain.batch, cfg.pretrain.length, "train")
            )
            half = cfg.runtime.precision == "bf16"

            def watch() -> None:
                with torch.autocast(device, torch.bfloat16, enabled=half):
                    heldout(world, windows, len(windows), device)

            return watch, len(windows), 0
    suite, task = unit.of.split("/")[:2]
    env = make(f"{suite}/{task}", cfg.env)
    (actions,) = env.action_space.shape
    agent = Agent(cfg.model, cfg.finetune.agent, actions, cfg.runtime.precision).to(device)
    if unit.what == "update":
        episodes = inputs.episodes(update.EPISODES, 3 * cfg.finetune.length, actions)
        step = update.finetuning(cfg, device, episodes, folder, actions).whole
        return repeat(step, UPDATES), UPDATES, size(agent)
    if device == "cuda" and cfg.runtime.graphs:
        agent.capture()
    if unit.what == "collect":
        collector, act = Collector(env, 0, 0), AgentPolicy(agent, explore=True)

        def step() -> None:
            collector.step(act(collector.image[None], np.array([collector.is_first]))[0])

        return repeat(step, STEPS), STEPS, 0
    together = make_vector(f"{suite}/{task}", cfg.env, cfg.finetune.eval_envs)
    seeds = [i << 32 for i in range(together.num_envs)]
    act = partial(AgentPolicy, agent, explore=False)
    return (lambda: list(evaluate(together, act, seeds))), len(seeds), 0


def measure(unit: plan.Unit, rounds: int) -> dict[str, str | float]:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        device = set_up(unit.cfg.runtime) if unit.cfg else "cpu"
        go, count, left = work(unit, Path(folder), device)
        taken = []
        for _ in range(rounds + 1):  # one to warm up
            start = seconds(device)
            go()
            taken.append((seconds(device) - start) / count)
    middle = statistics.median(taken[1:])
    row = {"what": unit.what, "of": unit.of, "settings": unit.settings, "bytes": round(left)}
    row |= {"seconds": middle, "low": min(taken[1:]), "high": max(taken[1:]), "rounds": rounds}
    print(f"{unit.what:9} {unit.of:50} {middle:8.4f} s", flush=True)
    machine = record.machine()
    row["machine"] = machine["gpu"] if device == "cuda" else machine["cpu"]
    return row | {"commit": git_commit()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scales", nargs="*", default=["laptop"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--anew", action="store_true", help="forget what was measured before")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    known = options.out.exists() and not options.anew
    rows = list(csv.DictReader(options.out.open(newline=""))) if known else []
    rows = {tuple(row[name] for name in COLUMNS[:3]): row for row in rows}
    needed = [u for s in options.scales for job in plan.jobs(s, study.load(s)) for u in job.work]
    for unit in dict.fromkeys(needed):
        key = (unit.what, unit.of, unit.settings)
        if key not in rows:
            rows[key] = measure(unit, options.rounds)
            write(options.out, [rows[key] for key in sorted(rows)])


def write(path: Path, rows: list[dict[str, str | float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


if __name__ == "__main__":
    main()
