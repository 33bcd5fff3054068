"""The services of a GPU box, really run: nothing that runs log is lost or doubled.

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
from pathlib import Path

import pytest
import yaml

from services import ROOT, Database, Server
from cwm import tracking

# The command `cwm`, but it waits for the others and sends at once, and half of its time.
EAGER = """
import pathlib, sys, time
import mlflow
from cwm import tracking
from cwm.cli import main
tracking._quiet_until, tracking.SHARE = 0.0, 1
while not pathlib.Path("go").exists():
    time.sleep(0.01)
main()
"""


@pytest.fixture(scope="module")
def database():
    database = Database()
    yield database
    database.remove()


@pytest.fixture(scope="module")
def server(database):
    server = Server(database)
    yield server
    server.remove()


@pytest.fixture(scope="module")
def study(tmp_path_factory, server):
    """A folder, and we in it, whose runs are shown by the server."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("config", "workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "go").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setenv("PYTHONPATH", str(ROOT))
        yield folder


def begin(seed: int, steps: int) -> subprocess.Popen:
    """A fine-tuning run that logs each update."""
    configs = [f"config/{name}.yaml" for name in ("suite/toy", "scale/smoke", "model/plain")]
    command = [sys.executable, "-c", EAGER, "finetune", "toy/sphere", *configs]
    command += ["config/variant/standard.yaml", "--seed", str(seed)]
    command += ["--out", f"results/smoke/finetune/toy/sphere/plain/none/standard/{seed}"]
    command += ["--set", f"finetune.steps={steps}", "--set", "finetune.log_every=1"]
    command += ["--set", "finetune.train_every=2"]
    return subprocess.Popen(command, stderr=Path(f"{seed}.err").open("w"))


def end(runs: list[subprocess.Popen]) -> str:
    """What the runs said about MLflow, once they have ended well."""
    said = "".join(Path(f"{run.args[run.args.index('--seed') + 1]}.err").read_text() for run in runs)
    assert [run.wait(600) for run in runs] == [0] * len(runs), said
    return "\n".join(line for line in said.splitlines() if "MLflow" in line)


def wait_for(what, seconds: float = 120) -> None:
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < seconds, "this does not come"
        time.sleep(0.1)


def arrived(database: Database) -> int:
    """Points in the database."""
    return database.rows("select count(*) from metrics")[0][0]


def lines() -> int:
    """Lines of all runs in progress."""
    return sum(path.read_text().count("\n") for path in Path("results").rglob("metrics.jsonl"))


def leaves(value, name=""):
    """`{"a": {"b": 3}}` as `("a.b", "3")`."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, str(value)


def points_of(run: Path) -> Counter:
    """What the files of a run say: name, value, milliseconds, step."""
    if not (run / "metrics.jsonl").exists():
        return Counter()
    points = Counter()
    for values, at in zip((run / "metrics.jsonl").open(), (run / "timing.jsonl").open(), strict=True):
        values, at = json.loads(values), json.loads(at)
        step = values.pop("step")
        points.update((name, x, int(at["time"] * 1000), step) for name, x in values.items())
    return points


def compare(database: Database) -> None:
    """MLflow has each run and figure of the files once, whole, and nothing else."""
    client = tracking._client()
    experiments = [each.experiment_id for each in client.search_experiments()]
    shown = client.search_runs(experiments, max_results=1000)
    by_path = {run.data.tags["cwm.path"]: run for run in shown if "cwm.path" in run.data.tags}
    figures = sorted(Path("results").glob("smoke/figures/*.json"))
    folders = [path.parent for path in sorted(Path("results/smoke").rglob("run.json"))]
    assert len(shown) == len(by_path) + len(figures)
    assert set(by_path) == {folder.as_posix() for folder in folders}

    counts = Counter(runs=len(folders), figures=len(figures))
    for folder, run in ((folder, by_path[folder.as_posix()]) for folder in folders):
        about = json.loads((folder / "run.json").read_text())
        assert run.data.tags["cwm.key"] == about["key"]
        assert run.data.tags["stage"] == about["stage"]
        assert run.data.tags["seed"] == str(about.get("seed", run.data.tags["seed"]))
        assert run.info.status == "FINISHED"
        query = "select key, value, timestamp, step from metrics where run_uuid = %s"
        points = points_of(folder)
        assert Counter(database.rows(query, run.info.run_id)) == points, folder
        params = dict(leaves(yaml.safe_load((folder / "config.yaml").read_text())))
        assert run.data.params == params
        files = client.list_artifacts(run.info.run_id)
        assert {"run.json", "config.yaml"} <= {file.path for file in files}
        for file in files:
            copy = client.download_artifacts(run.info.run_id, file.path)
            assert Path(copy).read_bytes() == (folder / file.path).read_bytes()
        counts.update(points=points.total(), params=len(params), artifacts=len(files))
    assert counts["points"] == arrived(database)
    print(", ".join(f"{count:,} {what}" for what, count in counts.items()))


def send_what_is_missing() -> None:
    """The command that a person gives when the server is there again."""
    done = subprocess.run(["cwm", "ui"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_server_answers_its_own_names_only(server):
    for host, status in (("mlflow:5000", 200), ("127.0.0.1:5001", 200), ("rebound.example:5000", 403)):
        request = urllib.request.Request(server.health[-1].split('"')[1], headers={"Host": host})
        try:
            assert urllib.request.urlopen(request).status == status
        except urllib.error.HTTPError as error:
            assert error.code == status


def test_eight_runs_meet_a_new_database_at_once(study, database):
    (study / "go").unlink()
    runs = [begin(seed, 200) for seed in range(100, 108)]
    time.sleep(30)
    (study / "go").touch()
    print(f"\neight runs at once: {end(runs) or 'no complaint'}")
    compare(database)


def test_a_server_killed_and_started_again(study, database, server):
    runs, before = [begin(seed, 900) for seed in (200, 201, 202)], arrived(database)
    for _ in range(3):
        wait_for(lambda: arrived(database) > before + 500)
        server.kill()
        written = lines()
        wait_for(lambda: lines() > written + 30)  # the runs go on
        server.start()
        before = arrived(database)
    print(f"\nserver killed three times: {end(runs)}")
    send_what_is_missing()
    compare(database)


def test_a_database_that_crashes_and_one_that_hangs(study, database, server):
    runs, before = [begin(seed, 900) for seed in (300, 301, 302)], arrived(database)
    wait_for(lambda: arrived(database) > before + 500)
    database.crash()
    written = lines()
    wait_for(lambda: lines() > written + 30)
    database.start()
    before = arrived(database)
    wait_for(lambda: arrived(database) > before + 500)
    database.freeze()
    written = lines()
    wait_for(lambda: lines() > written + 10)
    time.sleep(15)  # every request of theirs is given up, and asked again
    database.thaw()
    print(f"\ndatabase crashed, then hung: {end(runs)}")
    send_what_is_missing()
    compare(database)


def test_the_whole_study(study, database):
    begun = time.monotonic()
    command = ["snakemake", "--cores", str(os.cpu_count()), "--config", "scale=smoke", "--", "all"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(f"\nsmoke study: {time.monotonic() - begun:.0f} s")
    compare(database)
    send_what_is_missing()  # nothing is: so nothing is doubled
    compare(database)
