"""Kill every stage repeatedly and check that its results keep the same bits: `make punish`.

Each stage runs once without interruption as the reference. Then it runs repeatedly under SIGKILL,
usually with its children, and is restarted by the same command until it ends; its files are
compared with the reference. Half of the kills happen at random times. The others happen at calls
that read or change files (for example the 37th open, rename or remove), so that kills fall inside
checkpoints and publishing, which random times seldom hit. All moments follow from the seed; those
at calls are exactly repeatable. After MAX_KILLS kills a run is left to finish.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import itertools
import json
import mmap
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MAX_KILLS = 12  # of one run of a stage
CLOCK = ("timing.jsonl", "log.txt", "benchmark.tsv")  # records of time, which differ between runs
CALLS = ("open", "os.", "shutil.", "subprocess.", "sqlite3.")  # audit events that are counted
REPLAY = "replay.json"  # checksums of the replay, taken just before it is deleted

DATA = "something CONFIG/scale/smoke.yaml CONFIG/dataset/something.yaml settings.yaml"
VIDEOS = "--videos results/smoke/videos/something/videos.json"
MODEL = "CONFIG/scale/smoke.yaml CONFIG/model/contextwm.yaml settings.yaml"
SEEN = f"something {MODEL} --clips results/smoke/clips/something/store.json"
WEIGHTS = "results/smoke/pretrain/something/contextwm/weights.json"
LEARN = f"CONFIG/suite/SUITE.yaml {MODEL} CONFIG/variant/standard.yaml"
SHOWN = "--study CONFIG/study/smoke.yaml"
STAGES = {  # name -> command, path of its outputs; in order, as later ones need earlier ones
    "download": (f"download {DATA}", "data/something"),
    "collect": (f"collect {DATA} --cores 2", "results/smoke/videos/something"),
    "decode": (f"decode {DATA} {VIDEOS}", "results/smoke/clips/something/part-000"),
    "clips": (f"clips {DATA} {VIDEOS}", "results/smoke/clips/something"),
    "pretrain": (f"pretrain {SEEN}", "results/smoke/pretrain/something/contextwm"),
    **{
        suite: (
            f"finetune {suite}/{task} {LEARN.replace('SUITE', suite)} --pretrained {WEIGHTS}",
            f"results/smoke/finetune/{suite}",
        )
        for suite, task in (("toy", "sphere"), ("metaworld", "reach"), ("dmc", "cartpole-swingup"))
    },
    "baselines": (
        f"baselines toy/sphere CONFIG/suite/toy.yaml {MODEL}",
        "results/smoke/baselines",
    ),
    "predict": (f"predict {SEEN} --weights {WEIGHTS}", "results/smoke/predict"),
    "represent": (f"represent {SEEN} --weights {WEIGHTS}", "results/smoke/represent"),
    "scores": (
        "scores results/smoke/finetune/toy results/smoke/baselines",
        "results/smoke/scores.csv",
    ),
    "table": (
        f"table learning_curves results/smoke/scores.csv {SHOWN}",
        "results/smoke/tables/curves",
    ),
    "figure": (
        f"figure learning_curves results/smoke/tables/curves.csv results/smoke/scores.csv {SHOWN}",
        "results/smoke/figures/curves",
    ),
    # `report` creates the MLflow database and sends every run.
    "tracking": ("report results/smoke/figures/curves.json", "results/smoke/report.html"),
}


# A study with few jobs of every kind; it is killed with Snakemake and restarted like `make all`.
STUDY = """
figures:
  curves:
    kind: curves
    title: Learning curves
    runs:
      - {suite: toy, tasks: [sphere], models: [contextwm], datasets: [something]}
      - {suite: metaworld, tasks: [reach], models: [dreamer], datasets: [none]}
  prediction: &shown
    kind: prediction
    title: Predictions
    pretrained: [{datasets: [something], models: [contextwm]}]
  representations: {<<: *shown, kind: representations, title: Two motions}
"""
MAKE = "cwm doctor --unlock && exec snakemake --cores 2 --config scale=smoke -- all"
CLOCKED = (
    "results/mlflow/",
    "results/smoke/logs/",
)  # not compared; `shown` compares MLflow


class Kill(NamedTuple):
    """A SIGKILL at a time or before a call, to the process group or only to its first process."""

    seconds: float | None
    call: int | None
    alone: bool

    def __str__(self) -> str:
        when = f"{self.seconds:.2f} s" if self.call is None else f"call {self.call}"
        return when + " alone" * self.alone

    def do(self, process: int) -> None:
        """Send it."""
        (os.kill if self.alone else os.killpg)(process, signal.SIGKILL)


class Ended(NamedTuple):
    """Outcome of an attempt."""

    status: int  # negative: the number of a signal
    seconds: float
    calls: int


class Failure(Exception):
    """A stage failed, or its results differ."""


def attempt(folder: Path, words: list[str], kill: Kill | None) -> Ended:
    """Run a cwm command in a folder, in a process group of its own, and kill it if asked to."""
    calls = mmap.mmap(-1, 8)
    begun = time.monotonic()
    child = os.fork()  # a new interpreter would spend most of its time on imports
    if child == 0:
        os._exit(_run(folder, words, calls, kill))
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # the child does the same; either may be first
    deadline = begun + (kill.seconds if kill and kill.seconds is not None else 600)
    while (found := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            (kill or Kill(600, None, alone=False)).do(child)
            found = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    seconds = time.monotonic() - begun
    return Ended(os.waitstatus_to_exitcode(found[1]), seconds, int.from_bytes(calls[:8], "big"))


def _run(folder: Path, words: list[str], calls: mmap.mmap, kill: Kill | None) -> int:
    """Run the command in the child; count its calls, and kill it before the chosen one."""
    from cwm import cli

    os.setpgid(0, 0)
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["cwm", *words]
    sys.addaudithook(_watcher(str(folder), calls, kill))
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _watcher(folder: str, calls: mmap.mmap, kill: Kill | None) -> Callable:
    count, busy = 0, False

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count, busy
        if busy or not event.startswith(CALLS):
            return
        path = str(arguments[0]) if arguments else ""
        if path.startswith("/") and not path.startswith(folder):
            return  # libraries and settings
        count += 1
        calls[:8] = count.to_bytes(8, "big")
        if kill and count == kill.call:
            kill.do(os.getpid())
        if event == "shutil.rmtree" and (Path(path) / "replay").is_dir():
            busy = True
            Path(folder, REPLAY).write_text(json.dumps(_files(Path(path) / "replay")))
            busy = False

    return watch


def _files(place: Path) -> dict[str, str]:
    """Return checksums of all files in a folder, or of the files whose names start with `place`."""
    found = place.rglob("*") if place.is_dir() else place.parent.glob(place.name + "*")
    files = [file for file in found if file.is_file() and file.name not in CLOCK]
    return {
        file.relative_to(place.parent).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def results(folder: Path, stage: str) -> dict[str, str]:
    """Return checksums of what a stage has produced."""
    found = _files(folder / STAGES[stage][1])
    if (folder / REPLAY).exists():
        found[REPLAY] = (folder / REPLAY).read_text()
    if stage == "tracking":
        found |= shown(folder / "results/mlflow/tracking.db")
    return found


def shown(database: Path) -> dict[str, str]:
    """Return a hash of status and points of each MLflow run that is not deleted."""
    rows = "select tags.value, status, m.key, step, m.value from runs join tags using (run_uuid)"
    rows += " join metrics m using (run_uuid) where tags.key = 'cwm.key'"
    rows += " and lifecycle_stage = 'active' order by 1, 2, 3, 4, 5"
    with sqlite3.connect(database) as store:
        found: dict[str, list] = {}
        for key, *row in store.execute(rows):
            found.setdefault(f"MLflow's run {key}", []).append(row)
    return {name: hashlib.sha256(repr(rows).encode()).hexdigest() for name, rows in found.items()}


def punish(stage: str, kills: int, before: Path, reference: Path, calm: Ended, seed: int) -> None:
    """Run a stage from a copy of `before` with kills; its results must equal the reference's."""
    rng, expected = random.Random(f"{seed} {stage}"), results(reference, stage)
    done = 0
    while done < kills:
        folder = before.with_name(f"{stage}-{done}")
        shutil.copytree(before, folder)
        here: list[Kill] = []
        while True:
            kill = None
            if len(here) < min(MAX_KILLS, kills - done):
                seconds, call = rng.uniform(0, calm.seconds), rng.randint(1, calm.calls)
                when = rng.choice([(seconds, None), (None, call)])
                kill = Kill(*when, alone=rng.random() < 0.3)
            ended = attempt(folder, command(stage), kill)
            if ended.status != -signal.SIGKILL:
                break
            here.append(kill)
        done += len(here)
        story = f"{stage}, killed at {', '.join(map(str, here)) or 'never'}"
        if ended.status:
            log = (folder / "log.txt").read_text()
            raise Failure(f"{story}: ended with {ended.status}, see {folder}:\n{log[-2000:]}")
        _compare(expected, results(folder, stage), f"{story}, in {folder}")
        print(f"  {story}: the same", flush=True)
        shutil.rmtree(folder, ignore_errors=True)  # a surviving child may still write


def punish_study(kills: int, folder: Path, seed: int) -> None:
    """Run a study of every kind of job twice, the second time killing Snakemake with its jobs."""
    rng, calm, found = random.Random(f"{seed} study"), 0.0, []
    for project in (folder / "study", folder / "study-killed"):
        for name in ("config", "workflow", "profiles"):
            shutil.copytree(ROOT / name, project / name)
        shutil.copy(ROOT / "Snakefile", project)
        (project / "config/study/smoke.yaml").write_text(STUDY)
        scale = project / "config/scale/smoke.yaml"
        often = r"\g<0>\n  checkpoint_seconds: 0"
        scale.write_text(re.sub(r"^(pretrain|finetune):", often, scale.read_text(), flags=re.M))
        moments = [rng.uniform(0, calm / 6) for _ in range(kills)] if calm else []
        for moment in [*moments, None]:
            begun = time.monotonic()
            with (project / "log.txt").open("a") as log:
                make = subprocess.Popen(
                    ["bash", "-c", MAKE],
                    cwd=project,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            try:
                status = make.wait(moment)
            except subprocess.TimeoutExpired:
                os.killpg(make.pid, signal.SIGKILL)
                make.wait()
                continue
            if status:
                raise Failure(f"study: ended with {status}, see {project}/log.txt")
        calm = time.monotonic() - begun
        print(
            f"study: {calm:.0f} s, killed at {', '.join(f'{m:.1f} s' for m in moments)}", flush=True
        )
        files = _files(project / "results")
        found.append({n: x for n, x in files.items() if not n.startswith(CLOCKED)})
        found[-1] |= shown(project / "results/mlflow/tracking.db")
    _compare(*found, "study")


def _compare(expected: dict[str, str], found: dict[str, str], story: str) -> None:
    if names := sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n)):
        raise Failure(f"{story}: differs in {', '.join(names)}")


def command(stage: str) -> list[str]:
    """Return the arguments of a stage's command, without `cwm`."""
    words, out = STAGES[stage]
    words = words.replace("CONFIG", str(ROOT / "config"))
    return [*words.split(), *([] if stage == "download" else ["--out", out])]


def archive() -> bytes:
    """Return a zip archive of forty incompressible files."""
    out, rng = io.BytesIO(), random.Random(0)
    with zipfile.ZipFile(out, "w") as packed:
        for number in range(40):
            packed.writestr(f"push/{number}.webm", rng.randbytes(8000))
    return out.getvalue()


def settings(folder: Path, address: str, content: bytes) -> None:
    """Write settings with a checkpoint at every chance and a replay that drops episodes."""
    archive = {"file": "a.zip", "urls": [address], "sha256": hashlib.sha256(content).hexdigest()}
    settings = {
        "dataset": {"parts": 1, "archives": [archive]},
        "pretrain": {"updates": 12, "checkpoint_seconds": 0},
        "finetune": {"steps": 120, "eval_every": 40, "eval_episodes": 1, "checkpoint_seconds": 0},
    }
    settings["finetune"]["replay"] = {"capacity": 63}  # of 6 episodes, 3
    (folder / "settings.yaml").write_text(json.dumps(settings))  # JSON is YAML


def main() -> None:
    """Run all stages without interruption, and the chosen ones with kills."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="of all stages together")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--stages", nargs="+", choices=[*STAGES, "study"], default=[*STAGES, "study"]
    )
    options = parser.parse_args()
    print(f"python tests/punish.py --kills {options.kills} --seed {options.seed} --stages", end=" ")
    print(*options.stages, flush=True)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["CWM_COMMIT"] = "the same"  # in run.json, even after a commit
    sys.path[0] = str(ROOT)  # tests/ has another package `envs`
    from envs.rendering import load
    from tests.videos.server import serving

    stages = ("evaluate.baselines", "evaluate.predict", "evaluate.represent", "train.finetune")
    for name in (*stages, "train.pretrain", "videos.build", "videos.datasets"):
        importlib.import_module(f"cwm.{name}")  # so that children inherit them
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("triton")  # before OSMesa; see cwm.infra.device.set_up
    for name in ("mujoco", "dm_control.suite", "metaworld", "pandas", "matplotlib.figure"):
        load(name)
    folder, content = Path(tempfile.mkdtemp(prefix="punish-")), archive()
    before, reference = folder / "before", folder / "reference"
    reference.mkdir()
    shares = {name: 0 for name in options.stages}
    for number in range(options.kills):
        shares[options.stages[number % len(options.stages)]] += 1
    with serving(content) as server:
        settings(reference, server.url("slow"), content)
        in_study = shares.pop("study", 0)
        for stage in itertools.takewhile(lambda _: any(shares.values()), STAGES):
            shutil.copytree(reference, before)
            calm = attempt(reference, command(stage), None)
            if calm.status:
                raise Failure(f"{stage} ended with {calm.status}, see {reference}/log.txt")
            print(f"{stage}: {calm.seconds:.1f} s, {calm.calls} calls", flush=True)
            punish(stage, shares.pop(stage, 0), before, reference, calm, options.seed)
            shutil.rmtree(before)
    if in_study:
        punish_study(in_study, folder, options.seed)
    print(f"{options.kills} kills; all results are the same as without kills")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
