"""torch.compile for the parts of a model that consist of many small operations."""

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
    """Compile encoders and decoder, and the elementwise parts of the recurrent cells.

    Loops over time are not compiled: unrolled, they would take an hour. The results are cached on
    disk for later processes. Raises UserError if the C or C++ compiler is missing.
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
            vars(part.cell).update(gate=torch.compile(part.cell.gate, dynamic=False))


def require_compiler(device: str) -> None:
    """Raise UserError unless torch.compile finds a compiler and Python's headers.

    On a GPU Triton compiles C at run time; on a CPU torch compiles C++.
    """
    variable, *names = COMPILERS[device]
    candidates = os.environ.get(variable, "").split()[:1] or names  # first word of `ccache gcc`
    missing = []
    if not any(shutil.which(name) for name in candidates):
        missing.append(f"a compiler ({' or '.join(candidates)})")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.exists():
        missing.append(f"Python's headers ({header})")
    if missing:
        raise UserError(
            f"runtime.compile is unavailable: it needs {' and '.join(missing)}; on Debian, as root:"
            " apt-get install g++ python3-dev; or set runtime.compile=false"
        )
