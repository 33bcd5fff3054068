"""Minari datasets in their HDF5 format: `data/metadata.json` and `data/main_data.hdf5`.

A group `episode_N` has `observations`, N + 1 frames or a group of them, `actions` and `rewards`, a
row for each step.
"""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict, NonNegativeInt, with_config
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import DAMAGED_ARRAYS, UserError
from cwm.infra.files import sha256
from cwm.recorded.episode import Recording, choose_camera, damaged, shrink, steps
from cwm.videos.datasets import DatasetConfig
from cwm.videos.ffmpeg import Clip, DecodeError
from cwm.videos.store import Steps

if TYPE_CHECKING:
    import h5py

METADATA, MAIN = "data/metadata.json", "data/main_data.hdf5"


@with_config(ConfigDict(extra="ignore"))
class _Metadata(TypedDict):
    data_format: str
    total_episodes: NonNegativeInt


def recordings(root: Path, cfg: DatasetConfig) -> Iterator[Recording]:
    """The episodes of a dataset; UserError if the dataset as a whole is unusable."""
    import h5py

    metadata, path = json_file.read(root / METADATA, _Metadata), root / MAIN
    if metadata["data_format"] != "hdf5":
        kind = metadata["data_format"]
        raise UserError(f"{root / METADATA}: data_format {kind} cannot be read; hdf5 works")
    try:
        digest, size = sha256(path), path.stat().st_size
        with h5py.File(path) as file:
            names = [name for name in file if name.startswith("episode_")]
            cameras = sorted({x for name in names for x in _cameras(file[name])})
    except DAMAGED_ARRAYS as error:
        raise UserError(f"{path}: {damaged(error)}") from error
    if len(names) != metadata["total_episodes"]:
        said = f"{root / METADATA} says {metadata['total_episodes']} episodes"
        raise UserError(f"{said}, and main_data.hdf5 has {len(names)}")
    camera = choose_camera(root, cfg.camera, cameras)
    for name in names:
        number = name.removeprefix("episode_")
        identity = hashlib.sha256(f"{digest} {name} {camera}".encode()).hexdigest()
        yield Recording(
            f"episode_{int(number):06d}" if number.isdigit() else name,
            identity,
            size // len(names),
            partial(_frames, path, name, camera, cfg),
            partial(_steps, path, name, camera),
        )


def _cameras(group: "h5py.Group") -> Iterator[str]:
    """Paths of the arrays of an episode that hold frames: `observations`, or some below it."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if getattr(item, "dtype", None) == np.uint8 and item.ndim == 4 and item.shape[3] == 3:
            found.append(name)

    observations = group.get("observations")
    if hasattr(observations, "visititems"):
        observations.visititems(visit)
    elif observations is not None:
        visit("observations", observations)
    return iter(found)


def _place(camera: str) -> str:
    return camera if camera == "observations" else f"observations/{camera}"


def _frames(path: Path, name: str, camera: str, cfg: DatasetConfig) -> Clip:
    import h5py

    try:
        with h5py.File(path) as file:
            image = file[name][_place(camera)][()]
    except DAMAGED_ARRAYS as error:
        raise DecodeError(f"{path.name}: {damaged(error)}") from error
    return shrink(camera, image, cfg.geometry)


def _steps(path: Path, name: str, camera: str) -> Steps:
    import h5py

    try:
        with h5py.File(path) as file:
            group = file[name]
            frames = len(group[_place(camera)])
            found = steps(group["actions"][()], group["rewards"][()])
    except DAMAGED_ARRAYS as error:
        raise DecodeError(f"{path.name}: {damaged(error)}") from error
    for what, rows in zip(("actions", "rewards"), found, strict=True):
        if rows is not None and len(rows) != frames - 1:
            needed = f"{frames} observations need {frames - 1} {what}"
            raise DecodeError(f"{needed}, not {len(rows)}")
    return found
