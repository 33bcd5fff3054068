"""The context branch: one frame of the clip, augmented, encoded to features at several scales.

Paper section 4.2; reference `nets/encoder/ctx_resnet.py`. Shapes: B clips, T frames of each.
"""

from typing import Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cwm.nn.encoder import ResNet, VisionConfig

Choice = Literal["random", "first", "last"]
Augment = Literal["none", "erasing"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ContextConfig:
    """What the decoder may see of the context frame, and which frame it is."""

    choice: Choice = "random"
    masked: float = 0.75  # share of context tokens hidden from each decoded frame in training
    dropout: float = 0.1  # of the cross-attention


class ContextEncoder(nn.Module):
    """A ResNet of its own, whose features are the decoder's keys and values."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.resnet = ResNet(cfg)

    def forward(self, frame: Tensor) -> dict[int, Tensor]:
        """(B, 3, 64, 64) -> {size: (B, C, size, size)} at 32, 16 and 8 pixels."""
        return {f.shape[-1]: f for f in self.resnet(frame)}


def choose(choice: Choice, clips: int, length: int, device: torch.device) -> Tensor:
    """The index of the context frame of each clip, (B,)."""
    match choice:
        case "random":
            return torch.randint(length, (clips,), device=device)
        case "first":
            return torch.zeros(clips, dtype=torch.long, device=device)
        case "last":
            return torch.full((clips,), length - 1, device=device)


def erase(frame: Tensor) -> Tensor:
    """Grey out a random rectangle of half of the frames (B, 3, H, W).

    Random erasing with kornia's defaults: probability 0.5, area 0.02..0.33 of the frame, aspect
    ratio 0.3..1 or 1..3.3 with equal chance. The fill, 0, is mid-grey in -0.5..0.5.
    """
    count, _, height, width = frame.shape
    u = torch.rand(6, count, device=frame.device)
    area = (0.02 + 0.31 * u[0]) * height * width
    aspect = torch.where(u[1] < 0.5, 0.3 + 0.7 * u[2], 1 + 2.3 * u[2])
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top = (u[3] * (height - tall + 1)).floor()
    left = (u[4] * (width - wide + 1)).floor()
    y = torch.arange(height, device=frame.device)[None, :, None]
    x = torch.arange(width, device=frame.device)[None, None, :]
    top, left, tall, wide = (v[:, None, None] for v in (top, left, tall, wide))
    inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    erased = inside & (u[5] < 0.5)[:, None, None]
    return frame.masked_fill(erased[:, None], 0.0)
