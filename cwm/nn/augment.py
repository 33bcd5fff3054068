"""Random augmentations of the context frame in fine-tuning.

Reference: `get_augmentation` in `nets/encoder/ctx_resnet.py`, which calls kornia and torchvision.
Shapes: B frames (B, 3, H, W) in -0.5..0.5. Uniform numbers `u` are drawn if None.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cwm.settings import Augment


def erase(frame: Tensor, u: Tensor | None = None) -> Tensor:
    """Erase a random rectangle of each frame (B, 3, H, W) with probability 0.5.

    Kornia's defaults: area 0.02..0.33 of the frame, aspect ratio 0.3..1 or 1..3.3 with equal
    probability. Erased pixels become 0, which is mid-grey.
    """
    count, _, height, width = frame.shape
    u = torch.rand(6, count, device=frame.device) if u is None else u
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


def shift(frame: Tensor, u: Tensor | None = None) -> Tensor:
    """Shift each frame (B, 3, H, W) by up to 8 pixels along both axes.

    Equals replicate padding by 8 pixels and a random crop to the original size.
    """
    count, _, height, width = frame.shape
    u = torch.rand(2, count, device=frame.device) if u is None else u
    down, right = ((u * 17).floor() - 8)[..., None]
    return resample(frame, down + pixels(height, frame), right + pixels(width, frame))


def flip(frame: Tensor, u: Tensor | None = None) -> Tensor:
    """Mirror the whole batch (B, 3, H, W) with probability 0.5."""
    u = torch.rand((), device=frame.device) if u is None else u
    return torch.where(u < 0.5, frame.flip(-1), frame)


def scale(frame: Tensor, u: Tensor | None = None) -> Tensor:
    """Crop one random rectangle from the whole batch and resize it to the frame, (B, 3, H, W).

    Torchvision's random resized crop: area 2/3..1 of the frame, aspect ratio 3/4..4/3 on a log
    scale. It takes the first of ten candidates that fits, or the whole frame if none does.
    """
    _, _, height, width = frame.shape
    u = torch.rand(11, 2, device=frame.device) if u is None else u
    area = (1 - u[:10, 0] / 3) * height * width
    aspect = ((2 * u[:10, 1] - 1) * math.log(4 / 3)).exp()
    tall = F.pad((area / aspect).sqrt().round(), (0, 1), value=height)
    wide = F.pad((area * aspect).sqrt().round(), (0, 1), value=width)
    first = ((tall <= height) & (wide <= width)).int().argmax(0, keepdim=True)
    tall, wide = tall[first], wide[first]
    top = (u[10, 0] * (height - tall + 1)).floor()
    left = (u[10, 1] * (width - wide + 1)).floor()
    y = ((pixels(height, frame) + 0.5) * tall / height - 0.5).clamp(min=0).minimum(tall - 1)
    x = ((pixels(width, frame) + 0.5) * wide / width - 0.5).clamp(min=0).minimum(wide - 1)
    return resample(frame, (top + y)[None], (left + x)[None])


AUGMENTATIONS: dict[Augment, Callable[[Tensor], Tensor]] = {
    "erasing": erase,
    "shift": shift,
    "flip": flip,
    "scale": scale,
}


def pixels(count: int, like: Tensor) -> Tensor:
    """Pixel coordinates 0, 1, ..., count - 1 along an axis."""
    return torch.arange(count, dtype=like.dtype, device=like.device)


def resample(frame: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Sample frames (B, 3, H, W) bilinearly at rows y and columns x, each (B, N) or (1, N).

    Coordinates outside of the frame read the nearest edge pixel.
    """
    height, width = frame.shape[-2:]
    y, x = (2 * y + 1) / height - 1, (2 * x + 1) / width - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    grid = grid.to(frame.dtype).expand(len(frame), -1, -1, -1)
    return F.grid_sample(frame, grid, padding_mode="border", align_corners=False)
