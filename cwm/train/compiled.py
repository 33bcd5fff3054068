"""Parts of a model that torch may fuse, for a GPU that spends its time on small operations."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import nn

from cwm.infra.errors import UserError
from cwm.nn.rssm import RSSM
from cwm.world.vision import Vision

COMPILERS = {"cuda": ("CC", "gcc", "clang"), "cpu": ("CXX", "g++", "clang++")}


def compile_regions(model: nn.Module) -> None:
    """Compile the images' networks, and what surrounds the products of the recurrent cells.

    What it compiles is kept for later processes. Loops over time stay loops: unrolled, they would
    take an hour to compile. Raises UserError where the compiler's own needs are not installed.
    """
    require_compiler(next(model.parameters()).device.type)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "cwm/compiled"))
    for part in model.modules():
        if isinstance(part, Vision):
            for network in (part.encoder, part.context, part.decoder):
                if network is not None:
                    network.compile(dynamic=False)
        elif isinstance(part, RSSM):
            part.sample = torch.compile(part.sample, dynamic=False)
            part.cell.gate = torch.compile(part.cell.gate, dynamic=False)


def require_compiler(device: str) -> None:
    """Raise UserError unless torch.compile finds a compiler and Python's headers on this machine.

    On a GPU Triton compiles C at run time, on a CPU torch compiles C++.
    """
    variable, *names = COMPILERS[device]
    wanted = os.environ.get(variable, "").split()[:1] or names  # `ccache gcc` begins with ccache
    missing = []
    if not any(shutil.which(name) for name in wanted):
        missing.append(f"a compiler ({' or '.join(wanted)})")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.exists():
        missing.append(f"Python's headers ({header})")
    if missing:
        raise UserError(
            f"runtime.compile is unavailable: it needs {' and '.join(missing)}; on Debian, as root:"
            " apt-get install g++ python3-dev; or set runtime.compile=false"
        )
