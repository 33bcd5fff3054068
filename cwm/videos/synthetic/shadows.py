"""Shadow pairs: the same motion filmed in two appearances.

The motions are those of synthetic Something-Something. Clips come in groups: `MOTIONS` motions,
each filmed in both looks of the group. The label of a clip is its look, and the name of its file is
its motion, which is the layout that `cwm invariance` reads.
"""

from collections.abc import Iterator

import numpy as np

from cwm.videos.synthetic import something

VERSION = something.VERSION
LOOKS, MOTIONS = 2, 4  # in a group
write = something.write


def place(clip: int) -> tuple[int, int]:
    """Look and motion of a clip."""
    group, rest = divmod(clip, LOOKS * MOTIONS)
    motion, look = divmod(rest, LOOKS)
    return LOOKS * group + look, MOTIONS * group + motion


def label(clip: int) -> str:
    """The look of a clip."""
    return f"look-{place(clip)[0]:04d}"


def file_name(clip: int) -> str:
    """Path of a clip's file below the dataset's folder."""
    return f"{label(clip)}/motion-{place(clip)[1]:04d}.webm"


def traits(seed: int, clip: int) -> dict[str, str]:
    """Motion and look."""
    look, motion = place(clip)
    return {"motion": f"{seed}-{motion}", "look": f"{seed}-{look}"}


def render(seed: int, clip: int) -> Iterator[np.ndarray]:
    """Frames (96, 128, 3) uint8 of a clip."""
    look, motion = place(clip)
    return something.render(seed, motion, look)
