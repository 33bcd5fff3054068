"""What this machine lacks, and the line that mends it."""

import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cwm import gpus, tracking
from cwm.errors import UserError

DRAW = """
import os
from envs.rendering import Renderer, load
scene = "<mujoco><worldbody><camera name='eye'/></worldbody></mujoco>"
Renderer(load("mujoco").MjModel.from_xml_string(scene), "eye", "fast")
print(os.environ["MUJOCO_GL"])
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""  # one line that a person can do
    needed: bool = True  # the study cannot run without it


def diagnose() -> list[Finding]:
    """Look at everything that a study needs from the machine."""
    return [python(), torch(), gpu(), opengl(), ffmpeg(), mlflow(), snakemake()]


def doctor() -> int:
    """Print what was found; 1 if something needed is missing, else 0."""
    findings = diagnose()
    for found in findings:
        mark = "ok" if found.ok else "MISSING" if found.needed else "note"
        print(f"{mark:9}{found.what:11}{found.detail}")
        if not found.ok:
            print(f"{'':9}{'':11}-> {found.remedy}")
    return int(any(found.needed and not found.ok for found in findings))


def python() -> Finding:
    """The interpreter is one that requirements.lock was made for."""
    good = sys.version_info[:2] in ((3, 11), (3, 12))
    return Finding("Python", good, platform.python_version(), "make setup PYTHON=python3.11")


def torch() -> Finding:
    """PyTorch loads; exactly the tested version on the CPU, 2.11 or later as a CUDA build."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of it does not load
        return Finding("torch", False, str(error), "make setup")
    number = tuple(int(part) for part in torch.__version__.partition("+")[0].split(".")[:2])
    cuda = torch.version.cuda
    good = number >= (2, 11) if cuda else torch.__version__.partition("+")[0] == "2.13.0"
    detail = f"{torch.__version__} for {f'CUDA {cuda}' if cuda else 'the CPU'}"
    return Finding("torch", good, detail, "make setup TORCH=torch==2.13.0")


def gpu() -> Finding:
    """The driver answers; without one everything is computed on the CPU."""
    try:
        found = gpus.cards()
    except UserError as error:
        return Finding("GPU", False, str(error), "reinstall the driver or reboot", needed=False)
    names = ", ".join(f"{c.index} ({c.used} of {c.total} MiB in use)" for c in found)
    return Finding("GPU", True, names or "none: the CPU computes")


def opengl() -> Finding:
    """MuJoCo draws without a display, by the library that the environments choose."""
    command = [sys.executable, "-c", DRAW]
    drawn = subprocess.run(command, capture_output=True, text=True)
    if drawn.returncode == 0:
        return Finding("OpenGL", True, f"{drawn.stdout.strip()} draws without a display")
    reason, _, cure = (drawn.stderr.strip() or "drawing crashed").splitlines()[-1].rpartition("; ")
    return Finding("OpenGL", False, reason.partition(": ")[2] or cure, cure)


def ffmpeg() -> Finding:
    """The pinned ffmpeg binary of imageio-ffmpeg runs."""
    try:
        import imageio_ffmpeg

        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-version"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (ImportError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return Finding("ffmpeg", False, str(error), "make setup; unset IMAGEIO_FFMPEG_EXE")
    return Finding("ffmpeg", True, " ".join(said.split()[2:3]))


def mlflow() -> Finding:
    """The store that runs are shown in answers."""
    problem = tracking.problem()
    remedy = "runs are kept in files meanwhile; `make ui` sends them later"
    return Finding("MLflow", problem is None, problem or "the store answers", remedy, needed=False)


def snakemake() -> Finding:
    """This folder is not locked, or only by a Snakemake that is dead."""
    holder = _holder()
    if holder:
        return Finding("Snakemake", False, f"locked {holder[0]}", holder[1], needed=False)
    dead = "locked by a run that was killed, `make all` goes on from there"
    return Finding("Snakemake", True, dead if _locks() else "not locked")


def unlock() -> int:
    """Remove a Snakemake lock whose owner is dead; 1 and one line if it may be alive, else 0."""
    locks, holder = _locks(), _holder()
    if holder:
        print(f"this folder is locked {holder[0]}: {holder[1]}", file=sys.stderr)
        return 1
    for lock in locks:
        lock.unlink(missing_ok=True)
    if locks:
        print("removed the lock of a Snakemake that was killed", file=sys.stderr)
    return 0


def _locks() -> list[Path]:
    return sorted(Path(".snakemake/locks").glob("*.lock"))


def _holder() -> tuple[str, str] | None:
    """Who may still hold the lock and what to do then; nothing if there is none or it is dead.

    The lock itself names nobody. It is dead if Snakemake's log files of that time come from this
    host, and neither a Snakemake nor a job that one left behind runs in this folder.
    """
    stats = [lock.stat() for lock in _locks()]
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
        if "snakemake" in names or ("cwm" in names and "--out" in words):
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
