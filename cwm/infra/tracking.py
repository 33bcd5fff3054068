"""Run folders shown in MLflow. Files are the truth, MLflow is a window on them.

The only file that imports mlflow, and it does so inside functions: without mlflow everything works
untracked. How far a run was sent is kept on the MLflow run itself (tags `cwm.lines` and
`cwm.sending`), so a moved folder or another server can neither lose nor double a point.
"""

import hashlib
import importlib.util
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired

from pydantic import ConfigDict, FiniteFloat
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

STORE = Path("results/mlflow")
LAST = {  # the last file of a run of each stage: with it, the run is finished
    "pretrain": "weights.json",
    "convert": "weights.json",
    "predict": "errors.csv",
    "represent": "features.npz",
    "baselines": "scores.csv",
    "finetune": "weights.json",
}
FIGURES = "figures"
ARTIFACTS = ("run.json", "config.yaml", "weights.json", "*.csv", "episode.mp4", "*.png", "*.pdf")
IDENTITY = ("scale", "suite", "task", "model", "dataset", "variant", "seed")
METRICS_PER_BATCH, PARAMS_PER_BATCH, PARAM_LENGTH = 1000, 100, 6000  # MLflow's limits
UNTRACKED = "mlflow is not installed: runs are kept in their folders and shown nowhere"
SETTINGS = {  # unless set otherwise: a silent server costs seconds, not minutes; no telemetry
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

Lines = Sequence[tuple[dict[str, float], int]]  # values with their step, unix milliseconds


@dataclass(frozen=True)
class Record:
    """What the files say about one run; the same key and name are the same MLflow run."""

    stage: str
    key: str
    name: str
    status: str  # RUNNING, FINISHED or FAILED
    tags: Mapping[str, str]
    artifacts: Sequence[Path]
    params: Mapping[str, str] = field(default_factory=dict)
    lines: Lines = ()


def uri() -> str:
    """Where runs are shown: MLFLOW_TRACKING_URI, else the SQLite file of this study."""
    database = (STORE / "tracking.db").resolve()
    if "?" in str(database):  # begins the query of a URI, and SQLAlchemy reads no escape for it
        database = STORE / "tracking.db"
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database}"


def init() -> str:
    """Create or upgrade the SQLite database and its experiments; return one line that says so.

    To be called once before anything runs in parallel: MLflow's own first use is not safe then.
    """
    return _trouble(_make_database) or f"runs are shown in {_without_password(uri())}"


def problem() -> str | None:
    """Why runs cannot be shown, in one line, or nothing."""
    return _trouble(lambda: _database_exists() and _client().search_experiments(max_results=1))


def sync(run: Path, failed: bool = False) -> bool:
    """Bring MLflow up to date with a run folder; return whether it now is.

    Reads run.json, config.yaml, metrics.jsonl and timing.jsonl. The run is FINISHED once its last
    file is there, FAILED if the caller says so, else RUNNING. Never raises because of MLflow, and
    may be called at every step: MLflow gets a twentieth of the time of a run. As its import takes
    5 s, a run that lasts less than 100 s is left to `sync_all`.
    """
    early = time.monotonic() < _quiet_until
    if early and ("mlflow" not in sys.modules or _status(run, failed) == "RUNNING"):
        return False
    return _unless_damaged(lambda: _deliver(_read_run(run, failed)))


def sync_figure(stem: Path) -> bool:
    """Show a figure (STEM.pdf, STEM.png, STEM.json) as a run of the experiment `figures`."""
    about = json_file.read(stem.with_suffix(".json"), _Figure)
    files = [file for file in map(stem.with_suffix, (".pdf", ".png", ".json")) if file.exists()]
    name = f"{about['scale']}/{stem.name}"
    tags = {"scale": about["scale"], "mlflow.note.content": about["caption"]}
    return _deliver(Record(FIGURES, name, name, "FINISHED", tags, files))


def sync_all(results: Path = Path("results")) -> bool:
    """Bring MLflow up to date with all runs and figures: with what is there already, in seconds."""
    runs = [file.parent for stage in LAST for file in results.glob(f"*/{stage}/**/run.json")]
    figures = [file.with_suffix("") for file in results.glob(f"*/{FIGURES}/*.json")]
    sent = [_unless_damaged(lambda run=run: _deliver(_read_run(run))) for run in sorted(runs)]
    sent += [_unless_damaged(lambda stem=stem: sync_figure(stem)) for stem in sorted(figures)]
    return all(sent)


class Open(NamedTuple):
    """A run that MLflow takes to be running."""

    id: str
    name: str
    work: Path  # its folder


def running() -> list[Open]:
    """Every run of ours that MLflow takes to be running; none where the store does not answer."""
    found: list[Open] = []

    def look() -> None:
        client, page = _client(), ""
        stages = [e.experiment_id for e in client.search_experiments() if e.name in LAST]
        while stages and page is not None:
            wanted = "attributes.status = 'RUNNING'"
            runs = client.search_runs(stages, wanted, page_token=page or None)
            about = ((run.info, run.data.tags.get("cwm.path", "")) for run in runs)
            found.extend(Open(info.run_id, info.run_name, Path(path)) for info, path in about)
            page = runs.token or None

    if _database_exists():
        _trouble(look)
    return found


def is_local() -> bool:
    """Whether the store is this study's own, and not a server that others use too."""
    return _database() is not None


def end(runs: Iterable[Open]) -> None:
    """Say of runs that they were killed; one that goes on is running again."""
    line = _trouble(lambda: [_client().set_terminated(run.id, "KILLED") for run in runs])
    if line:
        raise UserError(line)


def ui(port: int = 5000) -> None:
    """Send every run; then open MLflow's pages, on this machine only, and replace the process."""
    if importlib.util.find_spec("mlflow") is None:
        raise UserError("mlflow is not installed: make setup")
    if _database() is None:  # a server has its own pages
        if not sync_all():
            raise UserError("MLFLOW_TRACKING_URI names a server that could not be told everything")
        print(f"every run is shown in {_without_password(uri())}")
        return
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"port {port} is taken; choose another with --port")
    print(f"{init()}; soon at http://127.0.0.1:{port}", flush=True)
    sync_all()
    pages = ["mlflow", "ui", "--backend-store-uri", uri(), "--host", "127.0.0.1"]
    pages += ["--port", str(port), "--workers", "1"]
    environment = _environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(sys.executable, [sys.executable, "-m", *pages], environment)


# --- what the files say -------------------------------------------------------------------------


class _Figure(TypedDict):
    scale: str
    caption: str


class _About(TypedDict):
    """What MLflow is told of a run.json, beside the run's identity."""

    __pydantic_config__ = ConfigDict(extra="allow")
    stage: str
    key: str
    commit: NotRequired[str | None]
    inputs: NotRequired[dict[str, str]]


class _Clock(TypedDict):
    time: FiniteFloat


def _unless_damaged(send: Callable[[], bool]) -> bool:
    """Send something of which the files may be damaged; then a line says so, and the next come."""
    try:
        return send()
    except UserError as error:
        print(f"not shown in MLflow: {error}", file=sys.stderr)
        return False


def _read_run(run: Path, failed: bool = False) -> Record:
    from cwm.infra import yaml_file

    about = json_file.read(run / "run.json", _About)
    identity = {name: str(about[name]) for name in IDENTITY if about.get(name) not in (None, "")}
    tags = {**identity, "stage": about["stage"], "cwm.path": run.as_posix()}
    tags["mlflow.source.git.commit"] = about.get("commit") or "unknown"
    tags |= {f"input.{name}": checksum for name, checksum in about.get("inputs", {}).items()}
    config = run / "config.yaml"
    return Record(
        stage=about["stage"],
        key=about["key"],
        name="/".join(identity.values()),
        status=_status(run, failed),
        tags=tags,
        artifacts=[file for name in ARTIFACTS for file in sorted(run.glob(name))],
        params=dict(_flatten(yaml_file.read(config))) if config.exists() else {},
        lines=_read_lines(run),
    )


def _status(run: Path, failed: bool) -> str:
    stage = json_file.read(run / "run.json", _About)["stage"]
    done = (run / LAST.get(stage, "run.json")).exists()
    return "FAILED" if failed else "FINISHED" if done else "RUNNING"


def _flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """`{"world": {"size": 3}}` as `world.size = 3`; a value over the limit is cut and says so."""
    if isinstance(config, dict) and (config or not prefix):
        for key, value in config.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return
    text = str(config)
    if len(text) > PARAM_LENGTH:
        note = f" ... cut from {len(text)} characters, see config.yaml"
        text = text[: PARAM_LENGTH - len(note)] + note
    yield prefix, text


def _read_lines(run: Path) -> Lines:
    """The whole lines of metrics.jsonl, each with the time in the same line of timing.jsonl."""
    files = (run / "metrics.jsonl", run / "timing.jsonl")
    if not all(file.exists() for file in files):
        return ()
    texts = (file.read_text(errors="replace").split("\n")[:-1] for file in files)
    pairs = zip(*texts, strict=False)  # the last line is half written, and one file may be ahead
    return [
        (
            json_file.parse(values, dict[str, int | float], f"a line of {files[0]}"),
            int(json_file.parse(at, _Clock, f"a line of {files[1]}")["time"] * 1000),
        )
        for values, at in pairs
    ]


# --- what MLflow is told ------------------------------------------------------------------------

SHARE = 20  # MLflow gets this part of the time of a run, and its import takes 5 s
_quiet_until = time.monotonic() + SHARE * 5
_failing = False  # a failure is said once, until things work again


def _deliver(record: Record) -> bool:
    """Send a record, or say in one line why not."""
    global _failing, _quiet_until
    start = time.monotonic()
    line = _trouble(lambda: _send(record))
    if line and not _failing:
        print(line, file=sys.stderr, flush=True)
    _failing = line is not None
    _quiet_until = time.monotonic() + SHARE * (time.monotonic() - start)
    return not _failing


def _trouble(action: Callable[[], object]) -> str | None:
    """Do something with MLflow; what went wrong in one line, or nothing."""
    if importlib.util.find_spec("mlflow") is None:
        return UNTRACKED
    try:
        action()
    except Exception as error:  # whatever the store does, the study goes on
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        if "(Caused by " in text:  # of a failed connection, at the end of its long text
            text = text.rpartition("(Caused by ")[2].removesuffix(")")
        where, reason = _without_password(uri()), _without_password(text)[:200]
        rest = "the files hold everything, `cwm ui` sends it later"
        return f"MLflow at {where} could not be told: {reason}; {rest}"
    return None


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@ ]*@", "//", text)


def _environment() -> dict[str, str]:
    return SETTINGS | os.environ


def _client(store: str | None = None) -> "MlflowClient":
    os.environ.update(_environment())  # MLflow reads them when it is imported
    from mlflow import MlflowClient

    for name in ("urllib3", "mlflow"):  # which tell of every try, the latter with tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)

    if "://" not in uri():  # to MLflow, a folder or a scheme of its own
        raise ValueError("MLFLOW_TRACKING_URI does not begin with http://")
    return MlflowClient(tracking_uri=store or uri())


def _database() -> Path | None:
    """The file of a SQLite store; nothing for a server."""
    path = uri().removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if uri().startswith("sqlite:///") else None


def _database_exists() -> bool:
    database = _database()
    return database is None or database.exists()


def _make_database() -> None:
    """Create or upgrade the database: one process at a time, and a new one only as a whole."""
    import fcntl

    database = _database()
    if database is None:  # a server makes its own; does it answer?
        _client().search_experiments(max_results=1)
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with (database.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if database.exists():
            _upgrade()
            return
        new = database.with_suffix(".new")
        new.unlink(missing_ok=True)
        for stage in (*LAST, FIGURES):
            _experiment(_client(f"sqlite:///{new}"), stage)
        new.replace(database)


def _upgrade() -> None:
    """Bring a database that an older MLflow has made to this one's schema."""
    from mlflow.exceptions import MlflowException

    try:
        _client().search_experiments(max_results=1)
    except MlflowException:
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri()]
        made = subprocess.run(command, env=_environment(), capture_output=True, text=True)
        if made.returncode:
            raise OSError(made.stderr.strip().splitlines()[-1]) from None


def _experiment(client: "MlflowClient", stage: str) -> str:
    """The id of a stage's experiment, which is made if it is new and restored if it was deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(stage)
    database = _database()
    where = (database.parent / "artifacts" / stage).resolve().as_uri() if database else None
    try:
        if not found:
            return client.create_experiment(stage, artifact_location=where)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id
    except MlflowException:  # another process was quicker, or else this fails again
        return client.get_experiment_by_name(stage).experiment_id


def _find_or_create(client: "MlflowClient", record: Record) -> "Run":
    experiment = _experiment(client, record.stage)
    wanted = f"tags.`cwm.key` = '{record.key}' and attributes.run_name = '{record.name}'"
    found = client.search_runs([experiment], wanted)
    if found:
        # A request that was given up may still be carried out, and repeating it makes a second run.
        best = max(found, key=lambda run: int(run.data.tags.get("cwm.sending", 0)))
        for other in found:
            if other is not best:
                client.delete_run(other.info.run_id)
        return best
    start = record.lines[0][1] if record.lines else None
    tags = {"cwm.key": record.key}
    return client.create_run(experiment, start_time=start, tags=tags, run_name=record.name)


def _send(record: Record) -> None:
    """Make the MLflow run equal to the record; what is there already is not sent again."""
    if not _database_exists():
        _make_database()
    client = _client()  # before the import, which reads the settings
    from mlflow.entities import Param, RunTag

    run = _find_or_create(client, record)
    run_id = run.info.run_id
    tags = [RunTag(k, v) for k, v in record.tags.items() if run.data.tags.get(k) != v]
    params = [Param(k, v) for k, v in record.params.items() if k not in run.data.params]
    client.log_batch(run_id, tags=tags)
    for start in range(0, len(params), PARAMS_PER_BATCH):
        client.log_batch(run_id, params=params[start : start + PARAMS_PER_BATCH])
    _send_lines(client, run, record.lines)
    if record.status != "RUNNING":
        digest = _digest(record.artifacts)
        if run.data.tags.get("cwm.artifacts") != digest:
            for file in record.artifacts:
                client.log_artifact(run_id, str(file))
            client.set_tag(run_id, "cwm.artifacts", digest)
    if run.info.status != record.status:
        end = record.lines[-1][1] if record.lines else None
        if record.status == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        else:
            client.set_terminated(run_id, record.status, end_time=end)


def _send_lines(client: "MlflowClient", run: "Run", lines: Lines) -> None:
    """Send the lines after the last that MLflow has.

    `cwm.sending` is written before and `cwm.lines` with each batch, so a send that was cut shows:
    only then is MLflow asked which points it has. Their times could not tell, because a run that
    goes on from a checkpoint writes the same values at new times. Nor does a step tell: updates
    made between two steps are logged with the same one, so points are counted.
    """
    from mlflow.entities import RunTag

    run_id, done = run.info.run_id, int(run.data.tags.get("cwm.lines", 0))
    if done >= len(lines):
        return
    begun = int(run.data.tags.get("cwm.sending", 0))
    known = _known(client, run_id, lines, done) if begun > done else Counter()
    client.set_tag(run_id, "cwm.sending", str(max(begun, len(lines))))
    for end, batch in _batches(lines, done):
        fresh = []
        for point in batch:
            if known[point.key, point.step] > 0:
                known[point.key, point.step] -= 1
            else:
                fresh.append(point)
        client.log_batch(run_id, metrics=fresh, tags=[RunTag("cwm.lines", str(end))])


def _batches(lines: Lines, start: int) -> Iterator[tuple[int, list["Metric"]]]:
    """Points from line `start` on, in batches of whole lines, each with the number of its end."""
    from mlflow.entities import Metric

    batch: list[Metric] = []
    for number, (values, at) in enumerate(lines[start:], start):
        names = sorted(values.keys() - {"step"})
        if len(batch) + len(names) > METRICS_PER_BATCH:
            yield number, batch
            batch = []
        batch += [Metric(name, values[name], at, values["step"]) for name in names]
    yield len(lines), batch


def _known(
    client: "MlflowClient", run_id: str, lines: Lines, done: int
) -> Counter[tuple[str, int]]:
    """How many points MLflow has of the lines after `done`, by (name, step)."""
    names = {name for values, _ in lines[done:] for name in values} - {"step"}
    histories = (client.get_metric_history(run_id, name) for name in names)
    known = Counter((point.key, point.step) for history in histories for point in history)
    known.subtract((name, values["step"]) for values, _ in lines[:done] for name in values)
    return known


def _digest(files: Sequence[Path]) -> str:
    """What the artifacts hold, so that they are sent again only when they change."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]
