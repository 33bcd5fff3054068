"""The context branch: one frame of the clip, encoded to features at several scales.

Paper section 4.2; reference `nets/encoder/ctx_resnet.py`. Shapes: B clips, T frames of each.
"""

import torch
from torch import Tensor, nn

from cwm.nn.encoder import ResNet
from cwm.nn.whole_batch import draw
from cwm.settings import Choice, VisionConfig


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
