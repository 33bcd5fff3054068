"""Skies and floors for DMC Remastered: procedural ones, or the original photographs.

The original files are marked as sRGB. They are shown without conversion, as MuJoCo 2.0 does.
"""

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from envs import textures
from envs.errors import EnvError
from envs.rendering import load

Picture = Callable[[], NDArray[np.uint8]]  # returns pixels (S, S, 3)


class Kind(NamedTuple):
    """The number of pictures in the original assets, and the size of procedural ones."""

    number: int  # also of procedural ones, so that a visual seed gives the same index
    size: int


KINDS = {"skies": Kind(119, 256), "floors": Kind(383, 128)}


def painted(kind: str, heldout: bool) -> list[Picture]:
    """Procedural pictures, as many as the original ones; `heldout` gives a disjoint set."""
    size = KINDS[kind].size
    paint = textures.landscape if kind == "skies" else textures.tile

    def picture(number: int) -> NDArray[np.uint8]:
        return paint(np.random.default_rng([number, heldout, len(kind)]), size)

    return [partial(picture, number) for number in range(KINDS[kind].number)]


def files(folder: Path) -> list[Picture]:
    """The pictures in a folder, sorted by name.

    Raises:
        EnvError: there are none, or they are not square PNG files of one size.
    """
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise EnvError(f"no *.png in {folder}; textures is a folder with skies/ and floors/")
    sizes = [_size(path) for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        if size != (sizes[0][0],) * 2:
            width, height = size
            raise EnvError(f"{path} is {width}x{height}; pictures must be square and of one size")
    return [partial(_decode, path) for path in paths]


def _size(path: Path) -> tuple[int, int]:
    """Width and height from the header of a PNG file."""
    with path.open("rb") as file:
        head = file.read(24)
    if head[:8] != b"\x89PNG\r\n\x1a\n" or len(head) < 24:
        raise EnvError(f"{path} is not a PNG file")
    return struct.unpack(">II", head[16:])


def _decode(path: Path) -> NDArray[np.uint8]:
    """The pixels as decoded by MuJoCo, which caches them."""
    file = quoteattr(str(path.absolute()))
    scene = f'<mujoco><asset><texture type="2d" file={file}/></asset></mujoco>'
    try:
        model = load("mujoco").MjModel.from_xml_string(scene)
    except ValueError as error:
        raise EnvError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return model.tex_data.reshape(model.tex_height[0], model.tex_width[0], 3)
