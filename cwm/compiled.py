"""Parts of a model that torch may fuse, for a GPU that spends its time on small operations."""

import os
from pathlib import Path

import torch
from torch import nn

from cwm.nn.rssm import RSSM
from cwm.world.vision import Vision


def compile_regions(model: nn.Module) -> None:
    """Compile the images' networks, and what surrounds the products of the recurrent cells.

    What it compiles is kept for later processes. Loops over time stay loops: unrolled, they would
    take an hour to compile.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache/cwm/compiled"))
    for part in model.modules():
        if isinstance(part, Vision):
            for network in (part.encoder, part.context, part.decoder):
                if network is not None:
                    network.compile(dynamic=False)
        elif isinstance(part, RSSM):
            part.sample = torch.compile(part.sample, dynamic=False)
            part.cell.gate = torch.compile(part.cell.gate, dynamic=False)
