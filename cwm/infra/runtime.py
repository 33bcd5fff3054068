"""Device, threads, precision, and the seeds from which all randomness comes."""

import ctypes
import hashlib
import logging
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from cwm.infra import gpus
from cwm.infra.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RuntimeConfig:
    """Where and how a run computes. Part of its identity: other threads give other bits."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"  # of the networks' forward passes
    threads: PositiveInt = 1  # on a CPU
    deterministic: bool = False  # on a GPU: the same bits every time, more slowly
    graphs: bool = True  # on a GPU: an update, or an action, is one CUDA graph
    compile: bool = False  # fuse small operations; costs minutes at the first start


def set_up(cfg: RuntimeConfig) -> str:
    """Apply the settings to this process; returns the device."""
    if cfg.device != "cpu":
        gpus.claim()
    found = cfg.device != "cpu" and torch.cuda.is_available()
    if cfg.device == "cuda" and not found:
        raise UserError(f"runtime.device is cuda, but {_no_cuda()}; or set runtime.device=cpu")
    if cfg.device == "auto" and not found and gpus.cards():
        logging.warning("computing on the CPU, since %s", _no_cuda())
    torch.set_num_threads(cfg.threads)
    device = "cuda" if found else "cpu"
    if device == "cpu":
        keep_memory()
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = not cfg.deterministic
    deterministic = cfg.deterministic and device == "cuda"
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)  # which imports the compiler, for 1.4 s
    return device


def keep_memory() -> None:
    """Let glibc keep what torch frees, for the next tensor.

    It gives large blocks back at once, and the system clears their pages anew for the next tensor,
    which took an eighth of an update (docs/performance.md). Other C libraries, which lack the call,
    are left as they are.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def processor_name() -> str:
    """The model of the CPU, as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _no_cuda() -> str:
    """Why torch has no GPU, and what to do about it."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install a build with it"
    if not gpus.cards():
        return "there is no NVIDIA driver or no visible card: see nvidia-smi, CUDA_VISIBLE_DEVICES"
    return f"torch cannot use the card: is the driver too old for CUDA {torch.version.cuda}?"


def seed_from(*parts: int | str) -> int:
    """A 63-bit seed that is a function of its parts alone, such as (seed, "update", 17)."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def reseed(*parts: int | str) -> None:
    """Seed torch from the parts, so that what follows needs no state of earlier steps."""
    torch.manual_seed(seed_from(*parts))
