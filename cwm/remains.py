"""What killed runs have left in this folder, and which of it may go.

Nothing that a run could go on from is ever removed: checkpoints, replays, journals and downloads
stay, and so does everything while somebody may still be at work.
"""

import fcntl
import json
import platform
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

QUIET = 60.0  # seconds without a change, after which nobody is taken to be writing a file
# Names that are written to and never read: whole files get another one.
HALF = (
    "results/**/.tmp-*",
    "results/mlflow/*.new",
    "results/*/work/*.finished",
    "data/*/.*.part",
)


class Work(NamedTuple):
    """A run in progress, or one that was."""

    folder: Path
    name: str

    @property
    def held(self) -> bool:
        """Whether a process is making it, on this machine or one that shares the file system."""
        return is_held(self.folder.with_suffix(".lock"))


def works() -> list[Work]:
    """Every work folder."""
    folders = sorted(path for path in Path("results").glob("*/work/*") if path.is_dir())
    return [Work(path, _name(path)) for path in folders if path.suffix != ".finished"]


def _name(work: Path) -> str:
    """What a run calls itself."""
    try:
        run = json.loads((work / "run.json").read_text())
        names = ("suite", "task", "dataset", "model", "variant", "seed")
        return "/".join(str(run[key]) for key in ("stage", *names) if key in run)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return work.name


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock file."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def half_written() -> list[Path]:
    """Files and folders that whoever began to write them did not end; none while somebody works."""
    if holder() or next(_running(Path.cwd().stat().st_uid), None):
        return []
    found = {path for pattern in HALF for path in Path().glob(pattern)}
    found = {path for path in found if not found.intersection(path.parents)}
    return sorted(path for path in found if _is_quiet(path) and not is_held(_guard(path)))


def _is_quiet(path: Path) -> bool:
    return time.time() - path.lstat().st_ctime >= QUIET


def _guard(path: Path) -> Path:
    """The lock file that is held where a path is written to."""
    if path.parts[0] == "data":
        return path.with_name(".lock")
    work = next((p for p in path.parents if p.parent.name == "work"), path)
    return work.with_suffix(".lock")


def remove(paths: list[Path]) -> None:
    """Delete files and whole folders."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def damaged_weights() -> list[Path]:
    """Every `weights.json` that does not fit the weights beside it.

    Published runs and MLflow's copies (`RUN_ID/artifacts/weights.json`) come without weights.
    """
    from cwm.infra.files import sha256

    found = []
    for index in sorted(Path("results").rglob("weights.json")):
        if index.is_relative_to("results/published") or index.parent.name == "artifacts":
            continue
        try:
            about = json.loads(index.read_text())
            good = sha256(index.with_name(about["file"])) == about["sha256"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            good = False
        # In work it is written before a run is published, so beside the weights it is of.
        found += [] if good else [index]
    return found


def locks() -> list[Path]:
    """Snakemake's lock on this folder."""
    return sorted(Path(".snakemake/locks").glob("*.lock"))


def holder() -> tuple[str, str] | None:
    """Who may still hold the lock and what to do then; nothing if there is none or it is dead.

    The lock itself names nobody. It is dead if Snakemake's log files of that time come from this
    host, and neither a Snakemake nor a job that one left behind runs in this folder.
    """
    stats = [lock.stat() for lock in locks()]
    if not stats:
        return None
    for process in _running(stats[0].st_uid):
        return f"by {process}", "wait for it or end it"
    hosts = _hosts(min(stat.st_mtime for stat in stats))
    if hosts != {platform.node()}:
        where = ", ".join(sorted(hosts)) or "an unknown host"
        return f"from {where}", "if nothing runs there any more: snakemake --unlock"
    return None


def _running(user: int) -> Iterator[str]:
    """Processes in this folder that are Snakemake or a job of the study."""
    import psutil

    here = str(Path.cwd())
    for process in psutil.process_iter(["pid", "cmdline", "cwd", "uids"]):
        words = process.info["cmdline"] or []
        names = [Path(word).name for word in words[:3]]  # python, -m, snakemake
        if "snakemake" in names or ("cwm" in names and {"--out", "download"} & {*words}):
            hidden = process.info["cwd"] is None and process.info["uids"].real == user
            if hidden or process.info["cwd"] == here:
                yield f"process {process.info['pid']} ({' '.join(words[1:])[:60]})"


def _hosts(locked: float) -> set[str]:
    """Hosts in the logs that Snakemake wrote shortly before the lock was made, or since."""
    hosts = set()
    for log in Path(".snakemake/log").glob("*.snakemake.log"):
        if log.stat().st_mtime > locked - 600:
            with log.open() as file:
                lines = [line.strip() for line in islice(file, 20)]
            hosts |= {line.removeprefix("Host: ") for line in lines if line.startswith("Host: ")}
    return hosts
