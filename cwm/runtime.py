"""Device, threads, precision, and the seeds from which all randomness comes."""

import hashlib
import logging
import os
from typing import Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from cwm import gpus
from cwm.errors import UserError


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RuntimeConfig:
    """Where and how a run computes. Part of its identity: other threads give other bits."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"  # of the networks' forward passes
    threads: int = 1  # on a CPU
    deterministic: bool = False  # on a GPU: the same bits every time, more slowly


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
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = not cfg.deterministic
    torch.use_deterministic_algorithms(cfg.deterministic and device == "cuda")
    return device


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
