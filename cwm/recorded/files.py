"""Folders of episodes, one .npz or HDF5 file for each.

A file holds `image` or `frames`, uint8 (T, H, W, 3); `action`, (T - 1, A) or (T, A); optionally
`reward`, as many rows or one more or less. docs/recorded-data.md says which row is which step.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from cwm.infra.errors import DAMAGED_ARRAYS
from cwm.infra.files import sha256, walk
from cwm.recorded.episode import Recording, damaged, shrink, steps
from cwm.videos.ffmpeg import Clip, DecodeError, Geometry
from cwm.videos.store import Steps

SUFFIXES = (".npz", ".h5", ".hdf5")
FRAMES = ("image", "frames")


def recordings(root: Path, geometry: Geometry) -> Iterator[Recording]:
    """The episodes below a folder; a file that cannot be read is one, too."""
    for folder, names in walk(root):
        for path in (folder / name for name in names):
            if path.suffix.lower() not in SUFFIXES:
                continue
            name = path.relative_to(root).as_posix()
            try:
                identity, size = sha256(path), path.stat().st_size
            except OSError:
                identity, size = name, 0
            read = partial(_frames, path, geometry), partial(_steps, path)
            yield Recording(name, identity, size, *read)


def _frames(path: Path, geometry: Geometry) -> Clip:
    try:
        with _open(path) as arrays:
            found = [key for key in FRAMES if key in arrays]
            if len(found) != 1:
                raise DecodeError(f"it has {' and '.join(found) or 'neither image nor frames'}")
            image = arrays[found[0]][()]
    except DAMAGED_ARRAYS as error:
        raise DecodeError(damaged(error)) from error
    return shrink(found[0], image, geometry)


def _steps(path: Path) -> Steps:
    try:
        with _open(path) as arrays:
            if "action" not in arrays:
                raise DecodeError("it has no action")
            reward = arrays["reward"][()] if "reward" in arrays else None
            return steps(arrays["action"][()], reward)
    except DAMAGED_ARRAYS as error:
        raise DecodeError(damaged(error)) from error


def _open(path: Path) -> AbstractContextManager[Mapping[str, Any]]:
    if path.suffix.lower() == ".npz":
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DecodeError("a single array, not an archive of arrays")
        return archive
    import h5py

    return cast(AbstractContextManager[Mapping[str, Any]], h5py.File(path))
