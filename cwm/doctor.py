"""What this machine lacks, what killed runs left, and the line that mends it."""

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cwm import remains
from cwm.infra import device
from cwm.infra.errors import UserError

ROOT = Path(__file__).parents[1]
DRAW = """
import os
import cwm  # which puts our `envs` before others
from envs.rendering import Renderer, load
scene = "<mujoco><worldbody><camera name='eye'/></worldbody></mujoco>"
Renderer(load("mujoco").MjModel.from_xml_string(scene), "eye", "fast")
print(os.environ["MUJOCO_GL"])
"""
FULL, LITTLE = 200e6, 5e9  # bytes left of a disk
DRIVERS = {12: 525, 13: 580}  # CUDA's major version -> the oldest driver that runs it
FIX = "cwm doctor --fix"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""  # one line that a person can do
    needed: bool = True  # the study cannot run without it
    fix: Callable[[], None] | None = None  # does the same, where nothing can be lost


def diagnose() -> list[Finding]:
    """Look at everything that a study needs, of the machine and in this folder."""
    looks = [python, libraries, torch, gpu, opengl, ffmpeg, disk, home, snakemake, half_written]
    return [look() for look in [*looks, unfinished, weights, mlflow]]


def doctor(fix: bool = False) -> int:
    """Print what was found, and mend what is safe to; 1 if something needed is missing, else 0."""
    findings = diagnose()
    for found in findings:
        mark = "ok" if found.ok else "MISSING" if found.needed else "note"
        print(f"{mark:9}{found.what:11}{found.detail}")
        if not found.ok:
            if mended := fix and found.fix is not None:
                found.fix()
            print(f"{'':9}{'':11}-> {'mended' if mended else found.remedy}")
    return int(any(found.needed and not found.ok for found in findings))


def python() -> Finding:
    """The interpreter is one that requirements.lock was made for."""
    good = sys.version_info[:2] in ((3, 11), (3, 12))
    return Finding("Python", good, platform.python_version(), "make setup PYTHON=python3.11")


def libraries() -> Finding:
    """What the study imports is installed, in the versions of requirements.lock."""
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ \\]+)", lock, re.MULTILINE))
    wanted = (ROOT / "requirements.txt").read_text().partition("# development")[0]
    try:
        there = _installed(re.findall("^[a-z].*", wanted, re.MULTILINE))
    except ImportError as error:  # of `packaging`, which tells what needs what
        there, wrong = {}, [str(error)]
    else:
        others = {name: have for name, have in there.items() if have != locked.get(name, have)}
        wrong = [
            f"{name} {have or 'is missing'}, not {locked[name]}" for name, have in others.items()
        ]
    remedy = "rm -f .venv/libraries-* .venv/ready-*; make setup"
    return Finding("libraries", not wrong, _some(wrong) or f"{len(there)}, as locked", remedy)


def _installed(wanted: list[str]) -> dict[str, str | None]:
    """Versions of what requirements ask for, directly or not; none: it is missing."""
    from packaging.requirements import Requirement

    found: dict[str, str | None] = {}
    left = [Requirement(line) for line in wanted]
    while left:
        asked = left.pop()
        name = re.sub(r"[-_.]+", "-", asked.name).lower()
        if name in found or (asked.marker and not asked.marker.evaluate({"extra": ""})):
            continue
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
        else:
            found[name] = installed.version
            left += [Requirement(line) for line in installed.requires or ()]
    return found


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
    """The driver answers and fits torch; without one everything is computed on the CPU."""

    def note(detail: str, remedy: str) -> Finding:
        return Finding("GPU", False, detail, remedy, needed=False)

    try:
        import torch

        found = device.visible_gpus()
        driver = device._query("driver_version")[0][0] if found else ""
    except (UserError, ImportError) as error:
        return note(str(error), "reboot; if that is no help, reinstall the driver")
    if not found:
        return Finding("GPU", True, "none: the CPU computes")
    names = ", ".join(f"{c.index} ({c.used} of {c.total} MiB in use)" for c in found)
    cuda, major = torch.version.cuda, driver.partition(".")[0]
    if cuda is None:
        return note(f"{names}, but torch is built for the CPU", "make setup TORCH=torch==2.13.0")
    oldest = DRIVERS.get(int(cuda.partition(".")[0]), 0)
    if major.isdigit() and int(major) < oldest:
        what = f"{names}, but driver {driver} is too old for torch's CUDA {cuda}"
        return note(what, f"as root: install NVIDIA's driver {oldest} or later, and reboot")
    if not torch.cuda.is_available():
        return note(f"{names}, but torch cannot use it", "reboot, which loads the driver anew")
    return Finding("GPU", True, f"{names}, driver {driver}")


def opengl() -> Finding:
    """MuJoCo draws without a display, by the library that the environments choose."""
    command = [sys.executable, "-c", DRAW]
    drawn = subprocess.run(command, capture_output=True, text=True)
    if drawn.returncode == 0:
        return Finding("OpenGL", True, f"{drawn.stdout.strip()} draws without a display")
    reason, _, cure = (drawn.stderr.strip() or "drawing crashed").splitlines()[-1].rpartition("; ")
    return Finding("OpenGL", False, reason.partition(": ")[2] or cure, cure)


def ffmpeg() -> Finding:
    """The ffmpeg that clips are decoded with runs, and understands how it is called."""
    try:
        from cwm.videos.ffmpeg import check_ffmpeg

        return Finding("ffmpeg", True, check_ffmpeg())
    except (ImportError, UserError) as error:
        reason, _, cure = str(error).rpartition("; ")
        return Finding("ffmpeg", False, reason or cure, f"make setup; {cure}")


def mlflow() -> Finding:
    """The store that runs are shown in answers."""
    from cwm.infra import tracking

    problem = tracking.problem()
    remedy = "runs are kept in files meanwhile; `make ui` sends them later"
    return Finding("MLflow", problem is None, problem or "the store answers", remedy, needed=False)


def disk() -> Finding:
    """What is written has room and may be written."""
    folders = [Path(name) for name in ("results", "data", ".snakemake")]
    # A folder that is not there yet is made in the present one.
    places = [folder if folder.exists() else Path() for folder in folders]
    places.append(Path(tempfile.gettempdir()))
    closed = [path.absolute() for path in places if not os.access(path, os.W_OK)]
    if closed:
        remedy = f"make it writable: chmod u+w {shlex.quote(str(closed[0]))}, or mount it so"
        return Finding("disk", False, f"nothing can be written in {closed[0]}", remedy)
    free, place = min((shutil.disk_usage(path).free, path.absolute()) for path in places)
    detail = f"{free / 1e9:.1f} GB free in {place}"
    remedy = "make room; what takes most: du -xhDd4 results data .snakemake | sort -h | tail"
    nodes = os.statvfs(place)
    if nodes.f_files and not nodes.f_favail:
        return Finding("disk", False, f"no more files can be made in {place}", remedy)
    return Finding("disk", free >= LITTLE, detail, remedy, needed=free < FULL)


def home() -> Finding:
    """Snakemake can keep its cache, which it does even for a dry run."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    remedy = 'export HOME=/tmp XDG_CACHE_HOME="$PWD/.snakemake/cache"'
    if cache.startswith("~"):
        return Finding("home", False, "HOME is not set, and the user has no home folder", remedy)
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        detail = f"no cache can be written in {cache}: {error.strerror}"
        return Finding("home", False, detail, remedy.replace("HOME=/tmp ", ""))
    return Finding("home", True, f"caches are written in {cache}")


def snakemake() -> Finding:
    """This folder is not locked."""
    if holder := remains.holder():
        return Finding("Snakemake", False, f"locked {holder[0]}", holder[1], needed=False)
    if not remains.locks():
        return Finding("Snakemake", True, "not locked")
    detail, remedy = "locked by a run that was killed", f"make all, which goes on; or {FIX}"
    return Finding("Snakemake", False, detail, remedy, needed=False, fix=unlock)


def half_written() -> Finding:
    """Nothing lies about that a killed process did not write to its end."""
    found = remains.half_written()
    detail = f"half written, and read by nobody: {_some(found)}" if found else "none half written"
    mend = partial(remains.remove, found)
    return Finding("files", not found, detail, FIX, needed=False, fix=mend)


def unfinished() -> Finding:
    """No run was stopped before its end; one that is being made is no such run."""
    left = [work for work in remains.works() if not work.held]
    some = _some([f"{work.folder} ({work.name})" for work in left])
    detail = f"{len(left)} stopped: {some}" if left else "none was stopped"
    remedy = "make all goes on with those of the study; of others, if they may be lost: rm -r"
    return Finding("runs", not left, detail, remedy, needed=False)


def weights() -> Finding:
    """Weights are those that their weights.json names."""
    found = remains.damaged_weights()
    detail = f"damaged: {_some(found)}" if found else "none damaged"
    remedy = f"put back a copy, or: rm {shlex.join(map(str, found))}; make all"
    return Finding("weights", not found, detail, remedy, needed=False)


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def unlock() -> int:
    """Remove a Snakemake lock whose owner is dead; 1 and one line if it may be alive, else 0."""
    locks, holder = remains.locks(), remains.holder()
    if holder:
        print(f"this folder is locked {holder[0]}: {holder[1]}", file=sys.stderr)
        return 1
    for lock in locks:
        lock.unlink(missing_ok=True)
    if locks:
        print("removed the lock of a Snakemake that was killed", file=sys.stderr)
    return 0
