"""Clips that are recorded episodes: the images of APV's .npz files, without their actions."""

from pathlib import Path

import numpy as np

from cwm.infra.errors import DAMAGED_ARRAYS
from cwm.videos.ffmpeg import SIZE, Clip, DecodeError, Geometry

SUFFIXES = (".npz",)


def read(path: Path, geometry: Geometry) -> Clip:
    """Frames of an episode, or DecodeError: they must be uint8 (T, 64, 64, 3) already."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            image = arrays["image"]
    except DAMAGED_ARRAYS as error:
        raise DecodeError(f"not an episode: {str(error).strip(chr(39))}") from error
    if image.dtype != np.uint8 or image.shape[1:] != (SIZE, SIZE, 3) or not len(image):
        raise DecodeError(f"image is {image.dtype} {image.shape}, not uint8 (T, {SIZE}, {SIZE}, 3)")
    return Clip(np.ascontiguousarray(image[:: geometry.stride]), SIZE, SIZE)
