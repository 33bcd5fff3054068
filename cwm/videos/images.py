"""Clips that are no video files: numbered stills, and recorded episodes (.npz).

A clip of stills has file numbers with a constant step: `S1/walk_000001.jpg`,
`S1/walk_000006.jpg`, ... A missing number ends the clip.
Reference: `data/human36m/build_clip_dataset.py`, `data/ytb_driving/make_list.py`.
"""

import itertools
import math
import re
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from cwm.infra.errors import DAMAGED_ARRAYS, UserError
from cwm.infra.files import walk
from cwm.videos.ffmpeg import SIZE, Clip, DecodeError, Geometry, as_frames

if TYPE_CHECKING:
    from PIL import Image

STILLS = (".jpg", ".jpeg", ".png")
EPISODES = (".npz",)
NUMBERED = re.compile(r"(.*?)(\d+)(\.[a-z]+)", re.IGNORECASE)
PADDING = 200  # pixels by which the square around a person is wider than the joints
SIDE = 1000  # pixels of the square image that joints refer to
ORIENTATION = 0x112  # EXIF tag
ONE = 2048  # OpenCV's fixed-point 1.0


class Stills(NamedTuple):
    """The numbers of a clip's stills, counted from the first one."""

    step: PositiveInt
    length: Annotated[int, Field(ge=1, le=10**7)]  # number of stills


def group_stills(
    files: Iterable[str], skip: int = 0, every: int = 1
) -> Iterator[tuple[str, Stills]]:
    """First file and numbers of every clip among file names, sorted.

    skip: stills left out at the beginning of a clip. every: of the others, keep those whose number
    is a multiple of it.
    """
    series: defaultdict[tuple[str, str, int], dict[int, str]] = defaultdict(dict)
    parsed = [(file, *m.groups()) for file in files if (m := NUMBERED.fullmatch(file))]
    padded = {(prefix, suffix, len(n)) for _, prefix, n, suffix in parsed if n[0] == "0"}
    for file, prefix, number, suffix in parsed:
        # 10 follows 09 if some numbers of this width are padded, and 9 otherwise.
        widths = (w for w in range(len(number), 0, -1) if (prefix, suffix, w) in padded)
        width = len(number) if number[0] == "0" else next(widths, 1)
        series[prefix, suffix, width][int(number)] = file
    for _, names in sorted(series.items()):
        numbers = np.array(sorted(names))
        steps = np.diff(numbers)
        usual = int(steps.min()) if len(steps) else 1
        for run in np.split(numbers, np.flatnonzero(steps != usual) + 1):
            kept = [int(number) for number in run[skip:] if number % every == 0]
            if kept:
                yield names[kept[0]], Stills(math.lcm(usual, every), len(kept))


def still_names(first: str, stills: Stills) -> list[str]:
    """File names of all stills of a clip."""
    match = NUMBERED.fullmatch(first)
    if match is None:
        raise ValueError(f"{first!r} has no number")
    prefix, number, suffix = match.groups()
    numbers = range(int(number), int(number) + stills.step * stills.length, stills.step)
    return [f"{prefix}{i:0{len(number)}d}{suffix}" for i in numbers]


def read_stills(
    root: Path,
    first: str,
    stills: Stills,
    geometry: Geometry,
    stop: threading.Event | None = None,
    scratch: Path | None = None,
) -> Clip:
    """Decode a clip of stills; raises DecodeError with the name of one that cannot be read.

    As OpenCV by default: 16-bit values keep their upper 8 bits, the EXIF orientation is applied,
    and resizing interpolates between the four nearest pixels.
    """
    from PIL import Image, UnidentifiedImageError

    files = still_names(first, stills)
    boxes = joint_boxes(root) if geometry.aspect == "person" else {}
    with tempfile.TemporaryFile(dir=scratch) as file:
        for path in (root / name for name in files):
            if stop is not None and stop.is_set():
                raise DecodeError("stopped")
            try:
                with Image.open(path) as image:
                    pixels = _upright(image)
            except Exception as error:  # Pillow raises almost anything for damaged files
                unknown = isinstance(error, UnidentifiedImageError)
                reason = "not an image" if unknown else getattr(error, "strerror", None) or error
                raise DecodeError(f"{path.name}: {reason}") from error
            height, width = pixels.shape[:2]
            if geometry.aspect == "center-crop":
                half, y, x = max(min(height, width) // 2, 1), height // 2, width // 2
                pixels = pixels[max(y - half, 0) : y + half, max(x - half, 0) : x + half]
            elif geometry.aspect == "person":
                if path.name not in boxes:
                    raise DecodeError(f"{path.name}: no joints in annot/*.h5")
                left, top, right, bottom = boxes[path.name] * width // SIDE
                pixels = pixels[top:bottom, left:right]
                if not pixels.size:
                    raise DecodeError(f"{path.name}: the joints are outside the image")
            file.write(resize(pixels).data)
        file.flush()
        return Clip(as_frames(file), width, height)


def _upright(image: "Image.Image") -> np.ndarray:
    """The image as RGB (H, W, 3) uint8, in its EXIF orientation if that can be read."""
    from PIL import Image

    image.load()
    if image.mode == "I;16":
        pixels = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, 2)
    else:
        pixels = np.asarray(image.convert("RGB"))
    exif = Image.Exif()
    with suppress(Exception):  # Pillow raises almost anything for damaged data
        exif.load(image.info.get("exif", b""))
    orientation = exif.get(ORIENTATION)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def resize(pixels: np.ndarray) -> np.ndarray:
    """Resize (H, W, 3) to (64, 64, 3) uint8, bilinear without antialiasing.

    In OpenCV's fixed-point arithmetic, to which it is bit-exact when shrinking: 11-bit weights,
    and a vertical pass that first drops 4 bits.
    """
    (top, bottom, low), (left, right, near) = (_taps(n) for n in pixels.shape[:2])
    wide = pixels.astype(np.int32)
    rows = [
        wide[y][:, left] * (ONE - near)[:, None] + wide[y][:, right] * near[:, None]
        for y in (top, bottom)
    ]
    low = low[:, None, None]
    mixed = ((ONE - low) * (rows[0] >> 4) >> 16) + (low * (rows[1] >> 4) >> 16)
    return np.ascontiguousarray((mixed + 2 >> 2).clip(0, 255), np.uint8)


@lru_cache(maxsize=16)
def _taps(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of the 64 pixels, its two source pixels and the weight of the second."""
    centre = np.float32((np.arange(SIZE) + 0.5) * (length / SIZE) - 0.5)
    first = np.floor(centre).astype(int)
    weight = np.rint((centre - first) * ONE).astype(np.int32)
    weight[(first < 0) | (first >= length - 1)] = 0
    first = first.clip(0, length - 1)
    return first, (first + 1).clip(max=length - 1), weight


@lru_cache(maxsize=1)
def joint_boxes(root: Path) -> dict[str, np.ndarray]:
    """The square around the person in every annotated still: name -> left, top, right, bottom.

    Annotations are `annot/NAME.h5` with `part`, the joints (N, J, 2), and `annot/NAME_images.txt`
    with the names of the stills. Raises UserError if there are none, or they are damaged.
    """
    import h5py

    boxes: dict[str, np.ndarray] = {}
    folders = (found for found in walk(root) if found[0].name == "annot")
    paths = sorted(base / name for base, names in folders for name in names if name[-3:] == ".h5")
    if not paths:
        raise UserError(f"no annot/*.h5 in {root}: geometry.aspect person needs joints")
    for path in paths:
        listed = path.with_name(f"{path.stem}_images.txt")
        try:
            stills = listed.read_text().split()
            with h5py.File(path) as file:
                joints = np.asarray(file["part"], np.float64)
        except Exception as error:  # h5py raises almost anything for damaged files
            what = f"{path} and {listed.name} are not the joints of stills"
            raise UserError(f"{what}: {error}") from error
        if joints.shape != (len(stills), *joints.shape[1:2], 2) or joints.shape[1] < 2:
            raise UserError(f"{path} has joints {joints.shape} for {len(stills)} stills")
        known = np.logical_and.reduce(np.isfinite(joints), axis=(1, 2))
        found = (Path(name).name for name in itertools.compress(stills, known))
        boxes |= zip(found, person_boxes(joints[known]), strict=True)
    return boxes


def person_boxes(joints: np.ndarray) -> np.ndarray:
    """Squares (N, 4) int around joints (N, J, 2), in pixels of an image SIDE wide.

    The bounding box of the joints, made a square that is PADDING wider and lies within the image.
    Rounded as in the reference.
    """
    first = np.trunc(joints[:, 0])
    low = np.floor(np.minimum(first, joints[:, 1:].min(1)))
    high = np.ceil(np.maximum(first, joints[:, 1:].max(1)))
    side = np.minimum((high - low).max(1, keepdims=True) + PADDING, SIDE)
    centre = (low + high) / 2
    low, high = np.trunc(centre - side / 2), np.trunc(centre + side / 2)
    shift = np.maximum(-low, 0)
    shift -= np.maximum(high + shift - SIDE, 0)
    return np.concatenate([low + shift, high + shift], 1).astype(int)


def read_episode(path: Path) -> Clip:
    """Read the frames of an episode of APV; DecodeError unless `image` is uint8 (T, 64, 64, 3)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            image = arrays["image"]
    except DAMAGED_ARRAYS as error:
        raise DecodeError(f"not an episode: {str(error).strip(chr(39))}") from error
    if image.dtype != np.uint8 or image.shape[1:] != (SIZE, SIZE, 3) or not len(image):
        raise DecodeError(f"image is {image.dtype} {image.shape}, not uint8 (T, {SIZE}, {SIZE}, 3)")
    return Clip(np.ascontiguousarray(image), SIZE, SIZE)
