"""Copy run folders to MLflow. The files are the source of truth, MLflow only displays them.

This is the only file that imports mlflow, and only inside functions: without mlflow every command
works untracked. The tag `cwm.sent` of an MLflow run counts the lines of metrics.jsonl that were
sent and has their hash. If it does not match the files, or a send was interrupted, the MLflow run
is deleted and sent again from the files.
"""

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from cwm.infra.errors import UserError, not_installed
from cwm.infra.files import is_locked, sha256
from cwm.infra.tracking_record import (
    FIGURES,
    LAST_FILE,
    Lines,
    Record,
    figure_record,
    is_finished,
    run_record,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STORE = Path("results/mlflow")
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100  # MLflow's limits
NOT_INSTALLED = f"{not_installed('mlflow')}; runs are kept in their folders only"
SENT, SENDING = "cwm.sent", "sending"
SETTINGS = {  # defaults: fail within seconds if a server does not answer; no telemetry
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def uri() -> str:
    """Return MLFLOW_TRACKING_URI, or by default the URI of the study's SQLite file."""
    database = (STORE / "tracking.db").resolve()
    if "?" in str(database):  # SQLAlchemy has no escape for `?`, which would start a query
        database = STORE / "tracking.db"
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database}"


def init() -> str:
    """Create the SQLite database and its experiments; return one line of status.

    Call it once before parallel jobs start: MLflow's own first use is not safe in parallel.
    """
    problem = _try(_make_database) or _try(_check_store)
    return problem or f"runs are shown in {_without_password(uri())}"


def problem() -> str | None:
    """Return one line that says why MLflow does not answer, or None."""
    return _try(_check_store)


def sync(folder: Path, failed: bool = False) -> bool:
    """Send new content of a run folder to MLflow; return whether MLflow is now up to date.

    The run is FAILED if `failed`, else FINISHED if its last file exists, else RUNNING. Never raises
    because of MLflow. Callers may call it at every step: it returns at once where syncing would
    take more than a twentieth of the run's time. Importing mlflow takes 5 s, so a run that is
    shorter than 100 s is left to `sync_all`.
    """
    ending = "mlflow" in sys.modules and (failed or is_finished(folder))
    if time.monotonic() < next_sync and not ending:
        return False
    return _deliver(partial(run_record, folder, "FAILED" if failed else None))


def sync_all(results: Path = Path("results")) -> bool:
    """Send every run and figure, and mark interrupted runs KILLED; skip runs in progress."""
    works = [file.parent for file in sorted(results.glob("*/work/*/run.json"))]
    killed = [x for x in works if not x.suffix and not is_locked(x.with_suffix(".lock"))]
    runs = [file.parent for stage in LAST_FILE for file in results.glob(f"*/{stage}/**/run.json")]
    records = [partial(run_record, folder, "KILLED") for folder in killed]
    records += [partial(run_record, folder) for folder in sorted(runs)]
    records += [partial(figure_record, x) for x in sorted(results.glob(f"*/{FIGURES}/*.json"))]
    return all([_deliver(record) for record in records])  # a list: one failure must not stop it


def ui(port: int = 5000) -> None:
    """Send every run; then replace this process by MLflow's UI, on this machine's own address."""
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(not_installed("mlflow"))
    if _database() is None:  # a server has its own UI
        if not sync_all():
            raise UserError("some runs could not be sent to the server of MLFLOW_TRACKING_URI")
        print(f"every run is shown in {_without_password(uri())}")
        return
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"port {port} is taken; choose another with --port")
    print(f"{init()}; soon at http://127.0.0.1:{port}", flush=True)
    sync_all()
    command = ["mlflow", "ui", "--backend-store-uri", uri(), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    environment = SETTINGS | os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(sys.executable, [sys.executable, "-m", *command], environment)


# --- sending ------------------------------------------------------------------------------------

pause = 20  # times the duration of a sync is the pause after it
next_sync = time.monotonic() + pause * 5.0
_failing = False  # print one line per outage, not one per sync


def _deliver(read: Callable[[], Record]) -> bool:
    """Read and send a record; print one line if its files are damaged or MLflow fails."""
    global _failing, next_sync
    start = time.monotonic()
    try:
        record = read()
    except UserError as error:
        print(f"not sent to MLflow: {error}", file=sys.stderr)
        return False
    line = _try(partial(_send, record))
    if line and not _failing:
        print(line, file=sys.stderr, flush=True)
    _failing = line is not None
    next_sync = time.monotonic() + pause * (time.monotonic() - start)
    return not _failing


def _try(action: Callable[[], object]) -> str | None:
    """Use MLflow; return None, or one line about the failure."""
    if importlib.util.find_spec("mlflow") is None:
        return NOT_INSTALLED
    try:
        action()
    except Exception as error:  # MLflow must never stop a run
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        if "(Caused by " in text:  # the cause of a failed connection ends its long message
            text = text.rpartition("(Caused by ")[2].removesuffix(")")
        where, reason = _without_password(uri()), _without_password(text)[:300]
        return f"MLflow at {where} failed: {reason}; no data is lost, `cwm ui` sends it later"
    return None


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@ ]*@", "//", text)


def _client(store: str | None = None) -> "MlflowClient":
    os.environ.update(SETTINGS | os.environ)  # before the import, which reads them
    from mlflow import MlflowClient

    for name in ("urllib3", "mlflow"):  # they log every retry, mlflow with tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if "://" not in uri():  # MLflow would take it for a folder
        raise ValueError("MLFLOW_TRACKING_URI does not begin with http://")
    return MlflowClient(tracking_uri=store or uri())


def _database() -> Path | None:
    """Return the file of a SQLite store, or None for a server."""
    path = uri().removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if uri().startswith("sqlite:///") else None


def _check_store() -> None:
    """Raise an error if the store does not answer; a SQLite file may not exist yet."""
    database = _database()
    if database is None or database.exists():
        _client().search_experiments(max_results=1)


def _make_database() -> None:
    """Create the SQLite database atomically, and in one process at a time."""
    database = _database()
    if database is None or database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with (database.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if database.exists():
            return
        new = database.with_suffix(".new")
        new.unlink(missing_ok=True)
        for stage in (*LAST_FILE, FIGURES):
            _experiment(_client(f"sqlite:///{new}"), stage)
        new.replace(database)


def _experiment(client: "MlflowClient", stage: str) -> str:
    """Return the id of a stage's experiment; create it if it is new, restore it if deleted."""
    from mlflow.exceptions import MlflowException

    found, database = client.get_experiment_by_name(stage), _database()
    artifacts = (database.parent / "artifacts" / stage).resolve().as_uri() if database else None
    try:
        if not found:
            return client.create_experiment(stage, artifact_location=artifacts)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id
    except MlflowException:  # another process has just done it; otherwise this fails again
        found = client.get_experiment_by_name(stage)
        if found is None:
            raise
        return found.experiment_id


def _send(record: Record) -> None:
    """Make the MLflow run equal to the record; send only missing data."""
    _make_database()
    client = _client()
    from mlflow.entities import Metric, Param, RunTag

    run, done = _find_or_create(client, record)
    run_id = run.info.run_id
    tags = [RunTag(k, v) for k, v in record.tags.items() if run.data.tags.get(k) != v]
    client.log_batch(run_id, tags=tags)
    params = [Param(k, v) for k, v in record.params.items() if k not in run.data.params]
    for start in range(0, len(params), PARAMS_PER_BATCH):
        client.log_batch(run_id, params=params[start : start + PARAMS_PER_BATCH])
    metrics = [
        Metric(name, values[name], at, int(values["step"]))
        for values, at in record.lines[done:]
        for name in sorted(values.keys() - {"step"})
    ]
    if metrics:
        client.set_tag(run_id, SENT, SENDING)
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])
        client.set_tag(run_id, SENT, _mark(record.lines, len(record.lines)))
    if record.status != "RUNNING":
        digest = _hash({file.name: sha256(file) for file in record.artifacts})
        if run.data.tags.get("cwm.artifacts") != digest:
            for file in record.artifacts:
                client.log_artifact(run_id, str(file))
            client.set_tag(run_id, "cwm.artifacts", digest)
    before, now = run.info.status, record.status
    if now == before or (before, now) == ("FAILED", "KILLED"):
        return
    if now == "RUNNING":
        client.update_run(run_id, status=now)
    else:
        client.set_terminated(run_id, now, record.lines[-1][1] if record.lines else None)


def _find_or_create(client: "MlflowClient", record: Record) -> tuple["Run", int]:
    """Return the MLflow run of a record, and how many of the record's lines it has."""
    experiment = _experiment(client, record.stage)
    wanted = f"tags.`cwm.key` = '{record.key}' and attributes.run_name = '{record.name}'"
    # Several if a server executed a request that had timed out and was repeated.
    found = [(_lines_sent(run, record), run) for run in client.search_runs([experiment], wanted)]
    done, best = max(found, key=itemgetter(0), default=(-1, None))
    for _, run in found:
        if done < 0 or run is not best:
            client.delete_run(run.info.run_id)
    if best and done >= 0:
        return best, done
    start = record.lines[0][1] if record.lines else None
    tags = {"cwm.key": record.key, SENT: _mark((), 0)}
    return client.create_run(experiment, start, tags, run_name=record.name), 0


def _lines_sent(run: "Run", record: Record) -> int:
    """Return how many lines an MLflow run has, or -1 if they may differ from the files'.

    A run that was resumed from a checkpoint logs the same metrics again. Until it has as many
    lines as MLflow, nothing is compared or sent.
    """
    mark = run.data.tags.get(SENT, SENDING)
    if mark == SENDING:
        return -1
    count = int(mark.partition(" ")[0])
    if count > len(record.lines) and record.status == "RUNNING":
        return count
    return count if mark == _mark(record.lines, count) else -1


def _mark(lines: Lines, end: int) -> str:
    """Return the value of the tag `cwm.sent` once the lines before `end` are sent."""
    return f"{end} {_hash([values for values, _ in lines[:end]])}"


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
