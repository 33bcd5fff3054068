"""The context branch: one frame of the clip, encoded to features at several scales.

Paper section 4.2; reference `nets/encoder/ctx_resnet.py`. Shapes: B clips, T frames of each.
"""

from typing import Literal

import torch
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cwm.infra.types import Fraction
from cwm.nn.encoder import ResNet, VisionConfig
from cwm.nn.whole_batch import draw

Choice = Literal["random", "first", "last"]
Fusion = Literal["attention", "concat"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ContextConfig:
    """How the context frame is chosen and how the decoder reads it."""

    choice: Choice = "random"  # which frame of a clip is the context
    fusion: Fusion = "attention"  # concat: concatenate all features instead of attending
    masked: Fraction = 0.75  # of context tokens, for each decoded frame in training
    dropout: Fraction = 0.1  # of the cross-attention
    heads: PositiveInt = 4  # of the cross-attention
    # `learned`: positions that start at zero, added to queries, keys and values (official).
    # `sinusoidal`: positions that start as sinusoids, added to queries and keys, whose projections
    # start equal and orthogonal, so a query attends to its own place before training. What the
    # attention adds starts at zero, so latents are used before the context is.
    positions: Literal["learned", "sinusoidal"] = "learned"


class ContextEncoder(nn.Module):
    """A ResNet whose features are the decoder's keys and values."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.resnet = ResNet(cfg)

    def forward(self, frame: Tensor) -> dict[int, Tensor]:
        """(B, 3, 64, 64) -> {size: (B, C, size, size)} at 32, 16 and 8 pixels."""
        return {f.shape[-1]: f for f in self.resnet(frame)}


def choose(choice: Choice, clips: int, length: int, device: torch.device) -> Tensor:
    """The index (B,) of the context frame in each clip."""
    match choice:
        case "random":
            return draw(lambda n: torch.randint(length, (n,), device=device), clips)
        case "first":
            return torch.zeros(clips, dtype=torch.long, device=device)
        case "last":
            return torch.full((clips,), length - 1, device=device)
