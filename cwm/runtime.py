"""Device, threads, precision, and the seeds from which all randomness comes."""

import hashlib
import os
from typing import Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

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
    found = torch.cuda.is_available()
    if cfg.device == "cuda" and not found:
        raise UserError(
            "runtime.device is cuda, but torch sees no GPU; check nvidia-smi, or set"
            " runtime.device=cpu"
        )
    torch.set_num_threads(cfg.threads)
    device = "cuda" if found and cfg.device != "cpu" else "cpu"
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = not cfg.deterministic
    torch.use_deterministic_algorithms(cfg.deterministic and device == "cuda")
    return device


def seed_from(*parts: int | str) -> int:
    """A 63-bit seed that is a function of its parts alone, such as (seed, "update", 17)."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def reseed(*parts: int | str) -> None:
    """Seed torch from the parts, so that what follows needs no state of earlier steps."""
    torch.manual_seed(seed_from(*parts))
