"""Write the table that `cwm plan` estimates from: python bench/costs.py [laptop ...]

Jobs finished in results/<scale> give the seconds of their kind. For other models, this script
times updates, steps and evaluations as a run makes them: processor time on a CPU, wall time on a
GPU, where updates are captured CUDA graphs. Other stages need finished jobs.
"""

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench import inputs, record, update
from cwm import plan, study
from cwm.agent import Agent
from cwm.config import Config
from cwm.infra.device import set_up
from cwm.infra.run_dir import processor_seconds
from cwm.train.environment import make, make_vector
from cwm.train.policies import AgentPolicy
from cwm.train.rollout import Collector, evaluate

TABLE = Path(__file__).parents[1] / "cwm/costs.csv"
COLUMNS = [*plan.COLUMNS, *plan.PRICES]
ROUNDS, STEPS = 3, 20  # after one round of warm-up; control steps in a round


def seconds(call: Callable[[], object], device: str) -> float:
    """Median time of a call."""
    taken = []
    for _ in range(ROUNDS + 1):
        start = clock(device)
        call()
        taken.append(clock(device) - start)
    return statistics.median(taken[1:])


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return processor_seconds()


def pretraining(cfg: Config, device: str, folder: Path) -> float:
    """Seconds of an update of pre-training."""
    store = inputs.clip_store(folder, update.CLIPS, 2 * cfg.pretrain.length)
    return seconds(update.pretraining(cfg, device, store).whole, device)


def finetuning(what: str, cfg: Config, device: str, folder: Path) -> float:
    """Seconds of a control step of `what`, suite/task, with its share of updates and evaluation."""
    c, env = cfg.finetune, make(what, cfg.env)
    (actions,) = env.action_space.shape
    agent = Agent(cfg.model, c.agent, actions, cfg.runtime.precision).to(device)
    if device == "cuda" and cfg.runtime.graphs:
        agent.capture()
    collector, act = Collector(env, 0, 0), AgentPolicy(agent, explore=True)

    def collect() -> None:
        for _ in range(STEPS):
            collector.step(act(collector.image[None], np.array([collector.is_first]))[0])

    together = make_vector(what, cfg.env, c.eval_envs)
    policy = partial(AgentPolicy, agent, explore=False)
    seeds = [i << 32 for i in range(together.num_envs)]
    episodes = inputs.episodes(update.EPISODES, 3 * c.length, actions)
    learned = c.steps - c.prefill
    updates = c.offline_updates + -(-learned // c.train_every)
    tested = (1 + -(-learned // c.eval_every)) * c.eval_episodes / len(seeds)
    return (
        seconds(update.finetuning(cfg, device, episodes, folder, actions).whole, device) * updates
        + seconds(collect, device) * c.steps / STEPS
        + seconds(lambda: list(evaluate(together, policy, seeds)), device) * tested
    ) / c.steps


def timed(job: plan.Job) -> float:
    """Seconds of a unit of a pre-training or fine-tuning job."""
    device = set_up(job.cfg.runtime)
    with tempfile.TemporaryDirectory() as folder:
        if job.stage == "pretrain":
            return pretraining(job.cfg, device, Path(folder))
        what = "/".join(job.folder.split("/")[1:3])
        return finetuning(what, job.cfg, device, Path(folder))


def rows(scale: str) -> dict[tuple[str, str, str], dict[str, str]]:
    """A row for each kind of job that is finished or can be timed."""
    jobs, found = list(plan.jobs(scale, study.load(scale))), {}
    done, machine = plan.finished(scale, jobs).dropna(), record.machine()
    device = machine["gpu"] if plan.on_gpu(scale) and machine["gpu"] else machine["cpu"]
    for job in {job[:2]: job for job in jobs}.values():
        if job[:2] in done.index:
            value, size = done.loc[job[:2], plan.PRICES]
        elif job.cfg and not job.of.startswith("carla"):  # its server is not available here
            value, size = timed(job), ""
        else:
            continue
        print(f"{job.stage:10} {job.of:40} {value:8.4f} s", flush=True)
        row = [job.stage, job.of, scale, device, f"{value:.4g}", size and f"{size:.0f}"]
        found[job.stage, job.of, scale] = dict(zip(COLUMNS, row, strict=True))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scales", nargs="*", default=["laptop"])
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    old = list(csv.DictReader(options.out.open(newline=""))) if options.out.exists() else []
    table = {(row["stage"], row["of"], row["scale"]): row for row in old}
    for scale in options.scales:
        table |= rows(scale)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table[key] for key in sorted(table))


if __name__ == "__main__":
    main()
