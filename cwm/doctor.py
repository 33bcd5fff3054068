"""Check that this machine and folder can run a study, with a remedy for each problem."""

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from cwm.infra import device
from cwm.infra.errors import EXTRAS, UserError, not_installed
from cwm.infra.files import is_locked
from cwm.infra.source import INSTALLED, ROOT

SETUP = "pip install contextwm" if INSTALLED else "make setup"
RENDER = """
import os
import cwm  # puts our `envs` before any other package of that name
from envs.rendering import Renderer, load
scene = "<mujoco><worldbody><camera name='eye'/></worldbody></mujoco>"
Renderer(load("mujoco").MjModel.from_xml_string(scene), "eye", "fast")
print(os.environ.get("MUJOCO_GL", "CGL"))
"""
FULL, NEARLY_FULL = 200e6, 5e9  # free bytes of a disk
QUIET = 60.0  # seconds without a change; a process on another host may still write newer files
# Finished files are renamed, so nothing reads these names. `data` holds half-unpacked archives.
UNFINISHED = ("results/**/.tmp-*", "results/*/work/*.finished", "data/*/.tmp-*")


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = True  # a study cannot run without it
    fix: Callable[[], object] | None = None  # applies the remedy where no work can be lost


def doctor(fix: bool = False) -> int:
    """Print all checks, and with `fix` apply the safe remedies; 1 if a required check fails."""
    checks = check_all()
    for check in checks:
        status = "ok" if check.ok else "MISSING" if check.required else "note"
        print(f"{status:9}{check.what:11}{check.detail}")
        if not check.ok:
            if fixed := fix and check.fix is not None:
                check.fix()
            print(f"{'':20}-> {'fixed' if fixed else check.remedy}")
    return int(any(check.required and not check.ok for check in checks))


def check_all() -> list[Check]:
    """Every check of the machine and of this folder."""
    machine = [system, python, libraries, torch, gpu, opengl, ffmpeg, disk, home]
    return [_run(check) for check in [*machine, snakemake, unfinished, interrupted, mlflow]]


def _run(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except ImportError as error:
        return Check(check.__name__, False, str(error), SETUP)


def system() -> Check:
    """The operating system is Linux; others lack parts."""
    name = f"{platform.system()} {platform.release()} ({platform.machine()})"
    if sys.platform.startswith("linux"):
        return Check("system", True, name)
    detail = f"{name}: not tested; no CUDA, CARLA, SLURM, and no set-up by make"
    return Check("system", False, detail, "for these use Linux", required=False)


def python() -> Check:
    """This version of Python is supported: by pyproject.toml, or in a checkout by the lock."""
    last = (3, 14) if INSTALLED else (3, 12)
    supported = (3, 11) <= sys.version_info[:2] <= last
    remedy = "use Python 3.11 to 3.14" if INSTALLED else "make setup PYTHON=python3.11"
    return Check("Python", supported, platform.python_version(), remedy)


def libraries() -> Check:
    """Every extra is installed; in a checkout the libraries of requirements.txt, as pinned."""
    if INSTALLED:
        missing = {extra for module, extra in EXTRAS.items() if find_spec(module) is None}
        names = ",".join(sorted(missing))
        detail = f"not installed: the extras {names}" if missing else "with all extras"
        remedy = f"if you need them: pip install 'contextwm[{names}]'"
        return Check("libraries", not missing, detail, remedy, required=False)
    required = (ROOT / "requirements.txt").read_text().partition("# development")[0]
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", required, re.MULTILINE))
    found = {name: _version(name) for name in pinned}
    wrong = [f"{x} is {found[x]}, not {pinned[x]}" for x in pinned if found[x] != pinned[x]]
    remedy = "rm -f .venv/libraries-* .venv/ready-*; make setup"
    return Check("libraries", not wrong, _some(wrong) or f"{len(pinned)}, as pinned", remedy)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def torch() -> Check:
    """PyTorch loads and is 2.11 or later; in a checkout without CUDA, the tested 2.13.0."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        return Check("torch", False, str(error), SETUP)
    version, cuda = torch.__version__.partition("+")[0], torch.version.cuda
    number = tuple(int(part) for part in version.split(".")[:2])
    good = number >= (2, 11) if cuda or INSTALLED else version == "2.13.0"
    detail = f"{torch.__version__} for {f'CUDA {cuda}' if cuda else 'the CPU'}"
    remedy = SETUP if INSTALLED else "make setup TORCH=torch==2.13.0"
    return Check("torch", good, detail, remedy)


def gpu() -> Check:
    """The NVIDIA driver answers, and torch can use its GPUs."""
    try:
        import torch

        found = device.visible_gpus()
        names = ", ".join(f"{gpu.number} ({gpu.used} of {gpu.total} MiB in use)" for gpu in found)
        if not found or torch.cuda.is_available():
            return Check("GPU", True, names or "none: computing on the CPU")
        problem = f"{names}, but {device.why_no_cuda()}"
    except UserError as error:
        problem = str(error)
    install = "install a CUDA build of torch" if INSTALLED else "make setup TORCH=torch==2.13.0"
    remedy = f"{install}; if that does not help, update the driver and reboot"
    return Check("GPU", False, problem, remedy, required=False)


def opengl() -> Check:
    """MuJoCo renders without a display, with the library that the environments select."""
    if INSTALLED and find_spec("mujoco") is None:
        problem, _, remedy = not_installed("mujoco").partition(": ")
        return Check("OpenGL", False, problem, remedy, required=False)
    done = subprocess.run([sys.executable, "-c", RENDER], capture_output=True, text=True)
    if done.returncode == 0:
        return Check("OpenGL", True, f"{done.stdout.strip()} renders without a display")
    last = (done.stderr.strip() or "rendering crashed").splitlines()[-1]
    problem, _, remedy = last.rpartition("; ")
    return Check("OpenGL", False, problem.partition(": ")[2] or remedy, remedy)


def ffmpeg() -> Check:
    """The ffmpeg that decodes clips runs and knows the options we use."""
    from cwm.videos.ffmpeg import check_ffmpeg

    try:
        return Check("ffmpeg", True, check_ffmpeg())
    except UserError as error:
        problem, _, remedy = str(error).rpartition("; ")
        return Check("ffmpeg", False, problem or remedy, f"{SETUP}; {remedy}")


def disk() -> Check:
    """The folders that a study writes to are writable and have free space."""
    folders = [Path(name) for name in ("results", "data", ".snakemake")]
    # A folder that does not exist yet will be created in the current one.
    places = [folder if folder.exists() else Path() for folder in folders]
    places.append(Path(tempfile.gettempdir()))
    if closed := [path.absolute() for path in places if not os.access(path, os.W_OK)]:
        remedy = f"chmod u+w {shlex.quote(str(closed[0]))}, or mount it writable"
        return Check("disk", False, f"{closed[0]} is not writable", remedy)
    free, place = min((shutil.disk_usage(path).free, path.absolute()) for path in places)
    remedy = "free some space; to find it: du -xhDd4 results data .snakemake | sort -h | tail"
    nodes = os.statvfs(place)
    if nodes.f_files and not nodes.f_favail:
        return Check("disk", False, f"no free inodes in {place}", remedy)
    detail = f"{free / 1e9:.1f} GB free in {place}"
    return Check("disk", free >= NEARLY_FULL, detail, remedy, required=free < FULL)


def home() -> Check:
    """Snakemake can write its cache, which even a dry run needs."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    remedy = 'export HOME=/tmp XDG_CACHE_HOME="$PWD/.snakemake/cache"'
    if cache.startswith("~"):
        return Check("home", False, "HOME is not set, and the user has no home folder", remedy)
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        detail = f"the cache folder {cache} is not writable: {error.strerror}"
        return Check("home", False, detail, remedy.replace("HOME=/tmp ", ""))
    return Check("home", True, f"the cache folder {cache} is writable")


def snakemake() -> Check:
    """No Snakemake holds a lock on this folder."""
    if not _locks():
        return Check("Snakemake", True, "not locked")
    if holder := _lock_holder():
        return Check("Snakemake", False, *holder, required=False)
    detail, remedy = "locked by a killed run", "cwm doctor --fix"
    return Check("Snakemake", False, detail, remedy, required=False, fix=unlock)


def unfinished() -> Check:
    """No killed process left temporary files; not checked while anything runs in this folder."""
    found = []
    if not _lock_holder() and not next(_running(Path.cwd().stat().st_uid), None):
        paths = {path for pattern in UNFINISHED for path in Path().glob(pattern)}
        found = sorted(path for path in paths if time.time() - path.lstat().st_ctime >= QUIET)
    detail = f"left by killed processes: {_some(found)}" if found else "no temporary files"
    fix = partial(_remove, found)
    return Check("files", not found, detail, "cwm doctor --fix", required=False, fix=fix)


def interrupted() -> Check:
    """No run waits to be resumed."""
    works = sorted(path for path in Path("results").glob("*/work/*") if path.is_dir())
    found = [x for x in works if not x.suffix and not is_locked(x.with_suffix(".lock"))]
    detail = f"{len(found)} interrupted: {_some(found)}" if found else "none interrupted"
    remedy = "run Snakemake again to resume those of the study; delete the others if not needed"
    return Check("runs", not found, detail, remedy, required=False)


def mlflow() -> Check:
    """The MLflow store answers."""
    from cwm.infra import tracking

    problem = tracking.problem()
    remedy = "runs are recorded in files; `cwm ui` sends them to MLflow later"
    detail = problem or "the store answers"
    return Check("MLflow", problem is None, detail, remedy, required=False)


def unlock() -> int:
    """Remove the Snakemake lock of a dead process; print why and return 1 if it may be alive."""
    if holder := _lock_holder():
        print(f"this folder is {holder[0]}: {holder[1]}", file=sys.stderr)
        return 1
    if locks := _locks():
        _remove(locks)
        print("removed the lock of a killed Snakemake", file=sys.stderr)
    return 0


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def _remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _locks() -> list[Path]:
    return sorted(Path(".snakemake/locks").glob("*.lock"))


def _lock_holder() -> tuple[str, str] | None:
    """Possible owner of Snakemake's lock, and a remedy; None without a lock or with a dead owner.

    A lock does not name its owner. The owner is dead if Snakemake's logs of that time come from
    this host, and neither Snakemake nor one of its jobs runs in this folder.
    """
    stats = [lock.stat() for lock in _locks()]
    if not stats:
        return None
    if process := next(_running(stats[0].st_uid), None):
        return f"locked by {process}", "wait for it, or stop it"
    hosts = _hosts(min(stat.st_mtime for stat in stats))
    if hosts != {platform.node()}:
        where = ", ".join(sorted(hosts)) or "an unknown host"
        return f"locked from {where}", "if nothing runs there any longer: snakemake --unlock"
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
    """Hosts in the logs that Snakemake wrote since shortly before the lock."""
    logs = Path(".snakemake/log").glob("*.snakemake.log")
    texts = [x.read_text(errors="replace") for x in logs if x.stat().st_mtime > locked - 600]
    return {host for text in texts for host in re.findall(r"^\s*Host: (.*\S)", text, re.MULTILINE)}
