"""Check and time the GPU path in at most nine minutes: `make gpu-check [REFERENCE=DIR]`

    python bench/gpu_check.py --dry     # every step at tiny size on a CPU, to test this script

The most valuable steps run first. Each has its own process and time limit, so a CUDA error or a
hang fails one step only. After each step the script rewrites gpu-check.json and gpu-check.md (the
table for docs/performance.md) in the folder OUT; gpu-check.log has all output.

It needs this checkout, torch with CUDA, numpy, pydantic, PyYAML, rich, safetensors and gymnasium.
It needs no set-up, simulator, ffmpeg or MLflow. The official code (REFERENCE) also needs Pillow.
"""

import argparse
import contextlib
import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
try:
    import numpy as np
    import torch

    from bench import inputs, record, reference, update, whole_runs
    from cwm import config
    from cwm.infra.device import reseed, set_up
    from cwm.infra.errors import UserError
    from cwm.infra.source import git_commit
    from cwm.nn.optim import Optimizer
    from cwm.settings import RuntimeConfig
    from cwm.train.policies import AgentPolicy, DelayedPolicy
    from cwm.train.pretrain import learner
    from cwm.world.action_free import ActionFreeModel
except ModuleNotFoundError as error:
    sys.exit(f"gpu-check needs the Python module {error.name}, which is not installed")

Row = tuple[str, str | float, str]  # what, value, unit
TINY = "--depth 8 --width 64 --latents 4 --units 32 --batch 2 --length 8 --rounds 1 --workers 1"
UPDATES = 4


class Options(NamedTuple):
    """How the steps run."""

    dry: bool
    reference: Path | None

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def scale(self) -> str:
        return "smoke" if self.dry else "paper"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and length of a batch: the paper's length; few enough rows for three agents."""
        return (2, 8) if self.dry else (8, 50)


class Step(NamedTuple):
    """A check or measurement. `run` returns rows and whether it passed, None for a measurement."""

    title: str
    seconds: float  # at most
    run: Callable[[Options], tuple[list[Row], bool | None]]


class Skipped(Exception):
    """Raised by a step that was not requested; the message says why."""


def machine(options: Options) -> tuple[list[Row], None]:
    """Versions, and the rate of one large matrix product."""
    set_up(RuntimeConfig(device=options.device))
    about = record.machine() | record.versions() | {"commit": git_commit()}
    rate = update.product_rate(options.device, "bf16") / 1e12
    rows = [(name, str(value), "") for name, value in about.items()]
    if not options.dry:
        rows.append(("cuda, cudnn", f"{torch.version.cuda}, {torch.backends.cudnn.version()}", ""))
    return [*rows, ("a large bfloat16 product", rate, "TFLOP/s")], None


class Learner(NamedTuple):
    """A model that learns from synthetic batches."""

    step: Callable[[int], dict[str, torch.Tensor]]  # index of an update -> its metrics
    state: Callable[[], dict[str, torch.Tensor]]
    act: Callable[[], np.ndarray] | None = None  # for an agent: its actions in three steps


def agent(model: str, options: Options, graphs: bool) -> Learner:
    sets = ["finetune.agent.encoder_frozen=2", "finetune.agent.behavior.target_every=2"]
    made = inputs.agent(model, "standard", options.scale, "bf16", options.device, sets)
    if graphs and not options.dry:
        made.capture()
    batch = partial(inputs.batch, *options.shape, options.device)

    def act() -> np.ndarray:
        seen, belief, actions = batch(0), None, []
        for i in range(3):
            reseed("act", i)
            image, first = (x[:, i].cpu().numpy() for x in (seen.image, seen.is_first))
            action, belief = made.act(image, first, belief, explore=True)
            actions.append(action)
        return np.stack(actions)

    return Learner(lambda i: made.update(batch(i)), made.state_dict, act)


def world(options: Options, graphs: bool) -> Learner:
    cfg = config.load([ROOT / f"config/scale/{options.scale}.yaml"])
    reseed("weights")
    made = ActionFreeModel(cfg.model, cfg.pretrain.world).to(options.device).train()
    optimizer = Optimizer(cfg.pretrain.optimizer, made.parameters())
    runtime = RuntimeConfig(precision="bf16", graphs=graphs)
    learn = learner(made, optimizer, runtime, options.device)
    batch = partial(inputs.batch, *options.shape, options.device)
    return Learner(lambda i: learn(batch(i).image), made.state_dict)


LEARNERS = {
    "pre-training": world,
    "ContextWM": partial(agent, "contextwm"),
    "DreamerV2": partial(agent, "dreamer"),
}


def equal(options: Options, deterministic: bool = False) -> tuple[list[Row], bool]:
    """Compare captured with eager updates, from the same weights and batches.

    In deterministic mode two eager learners and the captured one must have equal bits. Otherwise,
    if the two eager learners have equal bits, the captured one must too; if not, it may differ by
    ten times their difference, because some kernels add in arbitrary order.
    """
    set_up(RuntimeConfig(device=options.device, deterministic=deterministic))
    rows, good = [], True
    for name, make in LEARNERS.items():
        learners = [make(options, graphs) for graphs in (False, False, True)]
        if learners[0].act:
            eager, other = learners[0].act(), learners[2].act()
            off = float(np.abs(eager - other).mean())
            rows.append((f"{name}: actions in -1..1, captured and eager", off, "mean difference"))
            good &= off <= 1e-2  # False for NaN; a latent may flip in bfloat16
        metrics = [0.0, 0.0]  # of the second and third learner: largest difference from the first
        for i in range(UPDATES):
            found = []
            for each in learners:
                reseed("update", i)
                found.append({what: x.item() for what, x in each.step(i).items()})
            metrics = [max(x, difference(found[0], found[j])) for j, x in enumerate(metrics, 1)]
        same = [same_bits(learners[0], other) for other in learners[1:]]
        # The metrics do not show the last update, the weights do.
        weights = [distance(learners[0], other) for other in learners[1:]]
        for i, which in enumerate(("eager twice", "captured and eager")):
            rows += [
                (f"{name}: metrics, {which}", metrics[i], "relative"),
                (f"{name}: weights, {which}", "same bits" if same[i] else "differ", ""),
                (f"{name}: norm of the weights' difference, {which}", weights[i], "relative"),
            ]
        near = all(off[1] <= max(1e-3, 10 * off[0]) for off in (metrics, weights))
        good &= all(same) if deterministic or same[0] else near
        del learners
    return rows, good


def difference(one: dict[str, float], other: dict[str, float]) -> float:
    """The largest difference of two tables, relative to the first; inf unless all are finite."""
    if one.keys() != other.keys() or not all(map(math.isfinite, [*one.values(), *other.values()])):
        return math.inf
    return max(abs(x - other[name]) / max(abs(x), 1e-6) for name, x in one.items())


def distance(one: Learner, other: Learner) -> float:
    """The norm of the difference of all weights, relative to the first; inf unless finite."""
    theirs = other.state()
    pairs = [(x.double(), theirs[name].double()) for name, x in one.state().items()]
    apart = sum((x - y).square().sum().item() for x, y in pairs)
    norm = sum(x.square().sum().item() for x, _ in pairs)
    return math.sqrt(apart / norm) if math.isfinite(apart) else math.inf


def same_bits(one: Learner, other: Learner) -> bool:
    theirs = other.state()
    return all(torch.equal(x, theirs[name]) for name, x in one.state().items())


def runs(options: Options) -> tuple[list[Row], bool]:
    """Compare deterministic whole runs with and without graphs."""
    rows, good = [], True
    for name in whole_runs.STOPPED if options.dry else whole_runs.RUNS:
        same = whole_runs.compare(name, options.device)
        different = ", ".join(file for file, equal in same.items() if not equal)
        rows.append((name, f"differ: {different}" if different else "same bytes", ""))
        good &= not different
    return rows, good


def race(case: str, options: Options) -> tuple[list[Row], None]:
    """Time our updates and those of the official code in turn."""
    if options.reference is None:
        raise Skipped("REFERENCE=DIR, a checkout of the official code, was not given")
    words = ["--reference", str(options.reference), "--cases", case]
    return measured(reference.main, [*words, *(TINY.split() if options.dry else [])])


def components(options: Options) -> tuple[list[Row], None]:
    """Time of the parts of an update."""
    words = ["--scales", options.scale, "--models", "contextwm"]
    rows, _ = measured(update.main, [*words, "--updates", "1" if options.dry else "10"])
    known = ("fastest", "slowest", "frames", "work", "rate", "operations")
    return [row for row in rows if not row[0].endswith(known)], None


def measured(main: Callable[[list[str]], None], words: list[str]) -> tuple[list[Row], None]:
    """Run a benchmark and return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        record.OUT = Path(folder)
        main(words)
        (path,) = record.OUT.glob("*.json")
        rows = json.loads(path.read_text())["rows"]
    return [(row["name"], row["value"], row["unit"]) for row in rows], None


def acting(options: Options) -> tuple[list[Row], None]:
    """Time a policy step, and an update with five policy steps, in turn and overlapped."""
    set_up(RuntimeConfig(device=options.device))
    cuda = not options.dry
    rows_, length = (50, 50) if cuda else options.shape
    batch, image = inputs.batch(rows_, length, options.device), np.zeros((1, 64, 64, 3), np.uint8)
    made = partial(inputs.agent, "contextwm", "standard", options.scale, "bf16", options.device)

    def milliseconds(call: Callable[[], object], times: int) -> float:
        update.milliseconds(call, 3, options.device)
        return statistics.median(update.milliseconds(call, times, options.device))

    def step(actor: AgentPolicy) -> np.ndarray:
        return actor(image, np.array([False]))

    def turn(actor: AgentPolicy, learning: Any) -> None:
        actor.sync_weights()
        learning.update(batch)
        for _ in range(5):
            step(actor)

    eager, captured = made(), made()
    if cuda:
        captured.capture()
    rows: list[Row] = []
    for name, who in (("eager", eager), ("captured", captured)):
        taken = milliseconds(partial(step, AgentPolicy(who, True)), 30)
        rows.append((f"policy step, {name}", taken, "ms"))
    peak = update.Peak(options.device)
    rows.append(("update, captured", milliseconds(lambda: captured.update(batch), 10), "ms"))
    rows += [(f"update, {name}", mib, "MiB") for name, mib in peak.read().items()]
    in_turn = partial(turn, AgentPolicy(captured, True), captured)
    rows.append(("update and five policy steps, in turn", milliseconds(in_turn, 10), "ms"))
    ahead = made()
    delayed = DelayedPolicy(ahead, True)
    if cuda:
        ahead.capture()
        delayed.agent.capture()
    overlapped = milliseconds(partial(turn, delayed, ahead), 10)
    return [*rows, ("update and five policy steps, overlapped", overlapped, "ms")], None


STEPS = {
    "machine": Step("the machine", 60, machine),
    "equal": Step("captured equals eager, the paper's networks", 120, equal),
    "runs": Step("whole runs with CUDA graphs and without", 120, runs),
    "pretrain": Step("against the official code: pre-training", 90, partial(race, "pretrain")),
    "metaworld": Step("against the official code: Meta-world", 90, partial(race, "metaworld")),
    "dmcr": Step("against the official code: DMC Remastered", 90, partial(race, "dmcr")),
    "deterministic": Step(
        "deterministic mode, the paper's networks", 90, partial(equal, deterministic=True)
    ),
    "acting": Step("acting, overlap and memory", 60, acting),
    "components": Step("time per component", 90, components),
}


def run_step(name: str, options: Options, result: Path) -> None:
    """Run one step, in its own process, and write its result."""
    try:
        rows, good = STEPS[name].run(options)
        status = "measured" if good is None else ("passed" if good else "FAILED")
    except Skipped as why:
        rows, status = [], f"skipped: {why}"
    part = result.with_suffix(".part")
    part.write_text(json.dumps({"status": status, "rows": rows}))
    part.replace(result)


def in_process(name: str, words: list[str], seconds: float, log: Path) -> dict[str, Any]:
    """Run a step in a process; return its result, or how the process ended."""
    with tempfile.TemporaryDirectory() as folder, log.open("a") as file:
        result = Path(folder) / "result.json"
        command = [sys.executable, __file__, *words]
        command += ["--step", name, "--result", str(result)]
        file.write(f"== {name}\n")
        file.flush()
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            ended = f"crashed with exit code {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # with its child processes
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a hanging driver blocks SIGKILL
                process.wait(10)
        found = {"status": ended, "rows": []}
        if result.exists():
            found = json.loads(result.read_text())
        else:
            said = log.read_text(errors="replace").rpartition(f"== {name}\n")[2].splitlines()
            last = next((line for line in reversed(said) if line.strip()), "it printed nothing")
            found["rows"] = [("its last line", last.replace("|", "/")[:300], "")]
        return {"step": name, "seconds": round(time.monotonic() - start, 1)} | found


def markdown(found: list[dict[str, Any]], command: str, dry: bool) -> str:
    """A Markdown table of the results."""
    about = f"`{command}`, {datetime.now(UTC):%Y-%m-%d}."
    if dry:
        about += " **A dry run on a CPU at tiny sizes: the numbers mean nothing.**"
    lines = [about, "", "| step | what | value |", "| --- | --- | ---: |"]
    for each in found:
        title = STEPS[each["step"]].title
        lines.append(f"| **{title}** | {each['status']} | {each['seconds']} s |")
        for what, value, unit in each["rows"]:
            number = value
            if isinstance(value, float):
                number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
            lines.append(f"| | {what} | {number} {unit} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if no check failed and every step finished or was skipped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="the official code")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/out", metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all steps together")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    options = Options(given.dry, given.reference and given.reference.resolve())
    if given.step:
        run_step(given.step, options, given.result)
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "gpu-check.log"
    log.write_text("")
    words = ["--dry"] * given.dry
    words += ["--reference", str(options.reference)] if options.reference else []
    command = " ".join(["python bench/gpu_check.py", *words])
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as locks:
        if not given.dry:
            reference.share_gpu(Path(locks))
            if not torch.cuda.is_available():
                raise UserError("torch finds no CUDA device; --dry tries every step on a CPU")
        begun = time.monotonic()  # after waiting for the GPU lock
        for name in (name for name in STEPS if name in given.only):
            left = 60 * given.minutes - (time.monotonic() - begun)
            if left > 5:
                found.append(in_process(name, words, min(STEPS[name].seconds, left), log))
            else:
                found.append({"step": name, "status": "no time left", "seconds": 0, "rows": []})
            print(f"{name:14} {found[-1]['status']}, {found[-1]['seconds']} s", flush=True)
            table = markdown(found, command, given.dry)
            (given.out / "gpu-check.md").write_text(table)
            whole = {"command": command, "dry": given.dry, "steps": found}
            (given.out / "gpu-check.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(f"\n{table}\n-> {given.out}/gpu-check.md, gpu-check.json, gpu-check.log")
    fine = ("passed", "measured", "skipped")
    return int(not all(each["status"].startswith(fine) for each in found))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also ends the running step
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"gpu-check: {error}")
