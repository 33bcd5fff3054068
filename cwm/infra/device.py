"""Device, threads and random seeds of this process.

Snakemake counts GPUs but does not assign them, so all jobs of a machine would use its first GPU.
`claim_gpu` locks a slot on one GPU until this process ends. Each GPU has CWM_JOBS_PER_GPU slots
(`jobs_per_gpu` in config/config.yaml), which all users of the machine share. Under SLURM and
Kubernetes the scheduler's assignment is used.
"""

import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from cwm.infra.errors import UserError
from cwm.settings import RuntimeConfig

LOCKS = Path(os.environ.get("CWM_GPU_LOCKS", "/tmp/cwm-gpus"))
SCHEDULERS = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST")  # set in the jobs of a cluster
SMI_TIMEOUT = 60.0  # seconds
POLL = 1.0  # seconds between two attempts to lock a slot
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


class Gpu(NamedTuple):
    """A GPU as nvidia-smi reports it."""

    number: int  # in PCI bus order, which EGL is assumed to share
    uuid: str
    used: int  # MiB of memory in use by any process
    total: int  # MiB


def set_up(cfg: RuntimeConfig) -> str:
    """Apply the settings to this process and return its device, `cpu` or `cuda`.

    Waits for a free GPU slot if all are taken. Raises UserError if `runtime.device` is cuda and
    torch cannot use a GPU.
    """
    if cfg.device != "cpu":
        claim_gpu()
    found = cfg.device != "cpu" and torch.cuda.is_available()
    if cfg.device == "cuda" and not found:
        raise UserError(f"runtime.device is cuda, but {why_no_cuda()}; or set runtime.device=cpu")
    if cfg.device == "auto" and not found and visible_gpus():
        logging.warning("computing on the CPU: %s", why_no_cuda())
    with suppress(ModuleNotFoundError):
        # A CUDA build of torch has it, and imports it later. Loaded after OSMesa, which has another
        # LLVM, it ends the process by a segmentation fault; before OSMesa it works.
        import triton  # noqa: F401
    torch.set_num_threads(cfg.threads)
    device = "cuda" if found else "cpu"
    if device == "cpu":
        keep_freed_memory()
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = not cfg.deterministic
    deterministic = cfg.deterministic and device == "cuda"
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)  # imports the compiler, which takes 1.4 s
    return device


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensor instead of returning it to the system.

    Otherwise the system clears every page again, which took an eighth of an update
    (docs/performance.md). Does nothing with a C library without `mallopt`.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def processor_name() -> str:
    """CPU model from Linux's /proc/cpuinfo, or the architecture if that has none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def why_no_cuda() -> str:
    """Why torch cannot use a GPU, and the remedy."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install a CUDA build"
    if not visible_gpus():
        return "no GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return f"torch cannot use the GPU: is the driver too old for CUDA {torch.version.cuda}?"


def seed_from(*parts: int | str) -> int:
    """A 63-bit seed hashed from its parts, such as (seed, "update", 17)."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def reseed(*parts: int | str) -> None:
    """Seed torch with `seed_from(*parts)`, so that a resumed run needs no generator state."""
    torch.manual_seed(seed_from(*parts))


def visible_gpus() -> list[Gpu]:
    """GPUs that CUDA_VISIBLE_DEVICES allows, by index or full UUID; none without a driver.

    Raises UserError if the driver fails or does not answer.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    fields = "--query-gpu=index,uuid,memory.used,memory.total"
    command = ["nvidia-smi", fields, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT)
        problem = next(iter((done.stdout + done.stderr).strip().splitlines()), "nvidia-smi failed")
    except subprocess.TimeoutExpired:
        done, problem = None, f"nvidia-smi did not answer within {SMI_TIMEOUT:g} s"
    if done is None or done.returncode:
        raise UserError(f"NVIDIA driver: {problem}; repair the driver, or set runtime.device=cpu")
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name.strip() for name in visible.split(",")]
    found = []
    for index, uuid, *memory in rows:
        used, total = (int(x) if x.isdigit() else 0 for x in memory)  # some GPUs report [N/A]
        if names is None or index in names or uuid in names:
            found.append(Gpu(int(index), uuid, used, total))
    return found


@cache
def claim_gpu() -> Gpu | None:
    """Lock a slot on a GPU until this process ends, waiting for a free one if needed.

    Makes that GPU the only one that CUDA sees, and the one that MuJoCo renders on. Returns None
    without a GPU or under a scheduler. Call it before CUDA is initialised.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # number GPUs as nvidia-smi does
    found = [] if any(name in os.environ for name in SCHEDULERS) else visible_gpus()
    if not found:
        return None
    emptiest_first = sorted(found, key=lambda gpu: (gpu.used, gpu.number))
    slots = [(gpu, slot) for slot in range(jobs_per_gpu()) for gpu in emptiest_first]
    waiting = False
    while not (gpu := next((gpu for gpu, slot in slots if _lock(gpu, slot)), None)):
        if not waiting:
            logging.info("all GPUs are busy: waiting (jobs_per_gpu in config/config.yaml)")
            waiting = True
        time.sleep(POLL)
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu.uuid
    os.environ.setdefault("MUJOCO_EGL_DEVICE_ID", str(gpu.number))
    if 2 * gpu.used > gpu.total:
        logging.warning("GPU %d: %d of %d MiB are already in use", gpu.number, gpu.used, gpu.total)
    return gpu


def jobs_per_gpu() -> int:
    """Number of processes that may share a GPU, from CWM_JOBS_PER_GPU."""
    value = os.environ.get("CWM_JOBS_PER_GPU", "1")
    if not value.isdigit() or int(value) < 1:
        raise UserError(f"CWM_JOBS_PER_GPU (jobs_per_gpu) is {value!r}; it must be 1 or more")
    return int(value)


def _lock(gpu: Gpu, slot: int) -> bool:
    """Lock a slot until this process ends; False if another process holds it."""
    if not LOCKS.is_dir():
        LOCKS.mkdir(parents=True, exist_ok=True)
        LOCKS.chmod(stat.S_ISVTX | 0o777)
    # A folder, because another user's folder may be opened and locked, unlike another user's file.
    place = LOCKS / f"{gpu.uuid}-{slot}"
    place.mkdir(exist_ok=True)
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True  # the descriptor stays open
