"""MLflow shows every point of the files exactly once, whatever fails on the way."""

import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cwm import doctor
from cwm.infra import tracking
from cwm.infra.errors import UserError
from cwm.infra.files import file_lock
from cwm.infra.tracking_record import figure_record

NAMES = ("train/image", "train/kl", "train/reward")
SPAWN = multiprocessing.get_context("spawn")


def make_run(run: Path, key: str, stage: str = "finetune", **config) -> Path:
    run.mkdir(parents=True)
    about = {"stage": stage, "scale": "smoke", "suite": "toy", "task": "sphere", "key": key}
    about |= {"model": "contextwm", "dataset": "none", "variant": "standard", "seed": 3}
    (run / "run.json").write_text(json.dumps(about | {"commit": "0123abc"}))
    (run / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return run


def log(run: Path, first: int, end: int, clock: float = 1.7e9, offset: float = 0.0) -> None:
    """Log steps first..end-1. The values depend on step and offset, the times on the clock."""
    with (run / "metrics.jsonl").open("a") as metrics, (run / "timing.jsonl").open("a") as timing:
        for step in range(first, end):
            values = {name: step * 0.1 + i + offset for i, name in enumerate(NAMES)}
            metrics.write(json.dumps({"step": step, **values}) + "\n")
            timing.write(json.dumps({"step": step, "time": clock + step / 3}) + "\n")


def shown(key: str):
    """Return the MLflow runs of a key."""
    client = tracking._client()
    experiments = [each.experiment_id for each in client.search_experiments()]
    return client.search_runs(experiments, f"tags.`cwm.key` = '{key}'")


def points(key: str) -> dict[str, list[tuple[int, float]]]:
    (run,) = shown(key)
    client = tracking._client()
    history = {name: client.get_metric_history(run.info.run_id, name) for name in NAMES}
    return {name: sorted((at.step, at.value) for at in each) for name, each in history.items()}


def cut_logs(run: Path, lines: int) -> None:
    """Truncate the logs, as a run does that resumes from a checkpoint."""
    for name in ("metrics.jsonl", "timing.jsonl"):
        kept = (run / name).read_text().splitlines(keepends=True)[:lines]
        (run / name).write_text("".join(kept))


def written(run: Path) -> dict[str, list[tuple[int, float]]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {name: [(line["step"], line[name]) for line in lines] for name in NAMES}


def train(run: Path) -> None:
    """Log and sync in turns, in a process of its own."""
    tracking.next_sync, tracking.pause = 0.0, 0
    for first in (0, 150, 300):
        log(run, first, first + 150)
        tracking.sync(run)
    (run / "weights.json").write_text("{}")
    if not tracking.sync(run):
        raise SystemExit(1)


def send_and_die(run: Path) -> None:
    """Be killed when a batch has arrived, but not the tag that counts its lines."""
    client = type(tracking._client())
    log_batch = client.log_batch

    def cut(self, run_id, metrics=(), params=(), tags=()):
        log_batch(self, run_id, metrics=metrics, params=params, tags=() if metrics else tags)
        if metrics:
            os.kill(os.getpid(), signal.SIGKILL)

    client.log_batch = cut
    tracking.next_sync = 0.0
    tracking.sync(run)


def join(*jobs) -> list[int]:
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    return [job.exitcode for job in jobs]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder where four jobs created the database by starting at once."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        runs = [make_run(Path("results/smoke/work", f"job{i}"), f"job{i}") for i in range(4)]
        assert join(*(SPAWN.Process(target=train, args=(run,)) for run in runs)) == [0] * 4
    return folder


@pytest.fixture(autouse=True)
def here(study, monkeypatch):
    monkeypatch.chdir(study)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "_failing", False)
    monkeypatch.setattr(tracking, "next_sync", 0.0)
    monkeypatch.setattr(tracking, "pause", 0)


def test_parallel_jobs_neither_lose_nor_duplicate_points():
    for i in range(4):
        assert points(f"job{i}") == written(Path("results/smoke/work", f"job{i}"))
        assert shown(f"job{i}")[0].info.status == "FINISHED"


def test_mlflow_run_has_what_the_folder_has():
    run = make_run(
        Path("results/smoke/finetune/a"), "a", world={"size": 3, "rates": [0.5, 1]}, long="x" * 7000
    )
    log(run, 0, 4)
    assert tracking.sync(run)
    (first,) = shown("a")
    assert first.info.status == "RUNNING"
    assert first.info.run_name == "smoke/toy/sphere/contextwm/none/standard/3"
    assert first.info.start_time == 1_700_000_000_000
    assert first.data.params["world.size"] == "3"
    assert first.data.params["world.rates"] == "[0.5, 1]"
    assert len(first.data.params["long"]) == 6000  # MLflow's limit
    assert first.data.tags["model"] == "contextwm"
    assert first.data.tags["mlflow.source.git.commit"] == "0123abc"

    (run / "scores.csv").write_text("step,return\n4,1.0\n")
    (run / "episode.mp4").write_bytes(b"film")
    (run / "weights.json").write_text("{}")
    assert tracking.sync(run)
    (last,) = shown("a")
    assert last.info.status == "FINISHED"
    assert last.info.end_time == 1_700_000_001_000
    files = {file.path for file in tracking._client().list_artifacts(last.info.run_id)}
    assert files == {"run.json", "config.yaml", "scores.csv", "episode.mp4", "weights.json"}


def test_params_and_metrics_are_sent_in_batches():
    run = make_run(Path("results/smoke/work", "b"), "b", **{f"p{i}": i for i in range(250)})
    log(run, 0, 1100)  # 3,300 points
    assert tracking.sync(run)
    assert points("b") == written(run)
    assert len(shown("b")[0].data.params) == 250


def test_second_sync_changes_nothing_and_incomplete_line_is_not_sent():
    run = make_run(Path("results/smoke/work", "c"), "c")
    log(run, 0, 20)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "train/im')
    assert tracking.sync(run)
    before = points("c")
    assert [step for step, _ in before["train/kl"]] == list(range(20))
    assert tracking.sync(run)
    assert points("c") == before


def test_sync_after_killed_send_duplicates_nothing_even_if_the_run_resumed_earlier():
    run = make_run(Path("results/smoke/work", "d"), "d")
    log(run, 0, 49)
    log(run, 48, 49, offset=1.0)  # two updates at one step
    assert join(SPAWN.Process(target=send_and_die, args=(run,))) == [-signal.SIGKILL]
    assert points("d") == written(run)  # they had arrived
    cut_logs(run, 30)
    assert tracking.sync(run)
    log(run, 30, 60, clock=1.8e9)
    assert tracking.sync(run)
    assert points("d") == written(run)


@pytest.mark.parametrize("offset", [0.0, 1e-6])
def test_resumed_run_is_sent_again_only_if_its_metrics_differ(offset):
    key = f"resumed{offset}"
    run = make_run(Path("results/smoke/work", key), key)
    log(run, 0, 50)
    assert tracking.sync(run)
    (before,) = shown(key)
    cut_logs(run, 30)
    for first in (30, 40, 50):
        log(run, first, first + 10, clock=1.8e9, offset=offset)
        assert tracking.sync(run)
    assert points(key) == written(run)
    assert (shown(key)[0].info.run_id == before.info.run_id) == (offset == 0)


@pytest.mark.parametrize("clock", [float("inf"), float("nan")])
def test_damaged_time_is_reported_with_its_file(clock, capsys):
    run = make_run(Path("results/damaged", str(clock)), str(clock))
    log(run, 0, 4, clock=clock)
    tracking.sync(run)
    assert "a line of results" in capsys.readouterr().err


def test_run_that_was_created_twice_becomes_one(monkeypatch):
    """A server may execute a request that timed out, after the client has repeated it."""
    run = make_run(Path("results/smoke/work", "p"), "p")
    client = type(tracking._client())
    create = client.create_run

    def repeated(self, *arguments, **options):
        create(self, *arguments, **options)
        return create(self, *arguments, **options)

    monkeypatch.setattr(client, "create_run", repeated)
    for end in (5, 10):
        log(run, end - 5, end)
        assert tracking.sync(run)
    assert points("p") == written(run)


def test_moved_folder_is_the_same_run():
    run = make_run(Path("results/smoke/work", "e"), "e")
    log(run, 0, 10)
    assert tracking.sync(run)
    Path("results/smoke/finetune").mkdir(exist_ok=True)
    moved = run.rename("results/smoke/finetune/e")
    log(moved, 10, 20)
    (moved / "weights.json").write_text("{}")
    assert tracking.sync(moved)
    assert points("e") == written(moved)
    assert shown("e")[0].data.tags["cwm.path"] == "results/smoke/finetune/e"


def test_resumed_run_is_running_again():
    run = make_run(Path("results/smoke/work", "f"), "f")
    assert tracking.sync(run, failed=True)
    assert shown("f")[0].info.status == "FAILED"
    assert tracking.sync(run)
    assert shown("f")[0].info.status == "RUNNING"


def test_sync_all_marks_interrupted_runs_killed_unless_they_failed():
    for key in ("dead", "live", "failed"):
        run = make_run(Path("other/smoke/work", key), key)
        assert tracking.sync(run, failed=key == "failed")
    with file_lock(Path("other/smoke/work/live.lock"), "making this run"):
        assert tracking.sync_all(Path("other"))
    found = {key: shown(key)[0].info.status for key in ("dead", "live", "failed")}
    assert found == {"dead": "KILLED", "live": "RUNNING", "failed": "FAILED"}


def test_figure_has_its_caption_and_is_sent_again_when_it_changes():
    stem = Path("results/smoke/figures/curves")
    stem.parent.mkdir(parents=True)
    stem.with_suffix(".json").write_text(json.dumps({"caption": "Too short.", "scale": "smoke"}))
    for content in (b"old", b"new"):
        stem.with_suffix(".png").write_bytes(content)
        assert tracking._deliver(lambda: figure_record(stem.with_suffix(".json")))
        (run,) = shown("smoke/curves")
        assert run.data.tags["mlflow.note.content"] == "Too short."
        artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
        assert (artifacts / "curves.png").read_bytes() == content


def test_silent_server_costs_one_line_and_is_tried_again_when_the_run_ends(monkeypatch, capfd):
    run = make_run(Path("results/smoke/baselines/g"), "g", stage="baselines")
    log(run, 0, 5)
    monkeypatch.setattr(tracking, "pause", 1000)
    with socket.socket() as silent:  # accepts and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.setblocking(False)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert not tracking.sync(run)
        silent.accept()[0].close()  # one attempt
        assert not tracking.sync(run)
        with pytest.raises(BlockingIOError):
            silent.accept()  # no attempt during the pause
        (run / "scores.csv").write_text("step,return\n")
        assert not tracking.sync(run)
        silent.accept()[0].close()  # another when the run ends
    assert capfd.readouterr().err.count("\n") == 1
    monkeypatch.setattr(tracking, "_failing", False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert shown("g") == []
    for _ in range(2):
        assert tracking.sync_all(), capfd.readouterr().err
        assert points("g") == written(run)
        assert shown("g")[0].data.tags["cwm.path"] == run.as_posix()


def test_locked_database_costs_one_line_and_is_synced_later(capfd):
    run = make_run(Path("results/smoke/work/r"), "r")
    log(run, 0, 5)
    other = sqlite3.connect(tracking.STORE / "tracking.db", isolation_level=None)
    other.execute("begin exclusive")
    begun = time.monotonic()
    assert not tracking.sync(run)
    assert time.monotonic() - begun < 60  # SQLite's own timeout
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "database is locked" in said
    other.close()
    assert tracking.sync(run)
    assert points("r") == written(run)


@pytest.fixture(scope="module")
def stranger():
    """Serve what is not MLflow; the path ADDRESS/STATUS sets the status of the answer."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(int(self.path.split("/")[1]))
            self.end_headers()
            self.wfile.write(b"<!doctype html>\n<html>Not what you think.</html>")

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:9", "refused"),
        ("http://no-such-host.invalid:5000", "no-such-host.invalid"),
        ("mlflow:5000", "does not begin with http://"),
        ("STRANGER/500", "500"),
        ("STRANGER/404", "404"),
        ("STRANGER/200", "<!doctype html>"),
    ],
)
def test_wrong_address_is_reported_once_with_the_remedy(
    address, reason, stranger, monkeypatch, capfd
):
    address = address.replace("STRANGER", stranger)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = next(Path("results/smoke/work").iterdir())
    assert [tracking.sync(run), tracking.sync(run)] == [False, False]
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    for line in (said, tracking.init(), doctor.mlflow().detail):
        assert f"MLflow at {address} failed" in line
        assert reason in line
        assert "`cwm ui` sends it later" in line


def test_ui_sends_what_a_server_missed(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "_database", lambda: None)  # as with a server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracking.STORE.resolve()}/tracking.db")
    run = make_run(Path("results/smoke/baselines/q"), "q", stage="baselines")
    (run / "scores.csv").write_text("step,return\n")
    tracking.ui()
    assert "every run is shown in" in capsys.readouterr().out
    assert shown("q")[0].info.status == "FINISHED"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="could not be sent to the server"):
        tracking.ui()


def test_without_mlflow_one_line_says_so(monkeypatch, capfd):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run = make_run(Path("results/smoke/work", "h"), "h")
    assert [tracking.sync(run), tracking.sync(run)] == [False, False]
    assert capfd.readouterr().err == tracking.NOT_INSTALLED + "\n"
    assert tracking.init() == tracking.NOT_INSTALLED


def test_password_in_the_address_is_never_printed(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    line = tracking.init()
    assert "127.0.0.1" in line
    assert "secret" not in line
    assert "secret" not in tracking.problem()


def test_short_run_does_not_import_mlflow_and_is_sent_by_sync_all(capfd):
    run = make_run(Path("results/smoke/baselines/i"), "i", stage="baselines")
    (run / "scores.csv").write_text("step,return\n")
    code = "import sys; from pathlib import Path; from cwm.infra import tracking\n"
    code += f"print(tracking.sync(Path('{run}')), 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr
    assert shown("i") == []
    assert tracking.sync_all(), capfd.readouterr().err
    assert shown("i")[0].info.status == "FINISHED"


def test_deleted_experiment_is_restored_with_its_runs(capfd):
    run = make_run(Path("results/smoke/baselines/deleted"), "deleted", stage="baselines")
    (run / "scores.csv").write_text("step,return\n")
    assert tracking.sync_all(), capfd.readouterr().err
    client = tracking._client()
    client.delete_experiment(client.get_experiment_by_name("baselines").experiment_id)
    assert shown("deleted") == []
    fresh = make_run(Path("results/smoke/baselines/fresh"), "fresh", stage="baselines")
    (fresh / "scores.csv").write_text("step,return\n")
    assert tracking.sync_all(), capfd.readouterr().err
    assert [run.info.status for key in ("deleted", "fresh") for run in shown(key)] == [
        "FINISHED",
        "FINISHED",
    ]


def test_folder_name_may_have_special_characters(tmp_path):
    code = """from pathlib import Path
from cwm.infra import tracking
run = Path("results/smoke/baselines/r")
run.mkdir(parents=True)
(run / "run.json").write_text('{"stage": "baselines", "key": "k", "scale": "smoke"}')
(run / "scores.csv").write_text("step,return\\n")
print(tracking.sync_all(), tracking.sync_all(), tracking.problem())"""
    folder = tmp_path / "why? x?y=1&z 100%20 #1"
    folder.mkdir()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "True True None\n", done.stderr
    with sqlite3.connect(folder / "results/mlflow/tracking.db") as database:
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
    (stored,) = (folder / "results/mlflow/artifacts").rglob("scores.csv")
    assert stored.read_text() == "step,return\n"
    assert list(tmp_path.iterdir()) == [folder]


def test_uri_query_is_not_part_of_the_file_name(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////a/b.db?timeout=30")
    assert tracking._database() == Path("/a/b.db")
