"""The inputs of the losses.

Shapes: B batch, T time, A action.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ClipBatch(NamedTuple):
    """A batch of video clips, without actions and rewards."""

    image: Tensor  # (B, T, 64, 64, 3) uint8
    is_first: Tensor  # (B, T) 1 where a clip begins


class Batch(NamedTuple):
    """A batch of experience; `action[t]` is the action that led to `image[t]`."""

    image: Tensor  # (B, T, 64, 64, 3) uint8
    is_first: Tensor  # (B, T) 1 where an episode begins
    action: Tensor  # (B, T, A) in -1..1
    reward: Tensor | None  # (B, T); None: not recorded, and the reward losses are left out


def clip_batch(image: Tensor) -> ClipBatch:
    """A batch of video clips (B, T, 64, 64, 3); `is_first` is 1 at the first frame of each."""
    is_first = torch.zeros(image.shape[:2], device=image.device)
    is_first[:, 0].fill_(1)
    return ClipBatch(image, is_first)
