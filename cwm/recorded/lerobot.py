"""LeRobot datasets, format v3.0: Parquet and video files, each of many episodes.

`meta/info.json`       version, frame rate, features, and templates of the paths below
`meta/episodes/*/*`    Parquet: length of each episode, its data file, its video file and segment
`data/...`             Parquet: a row for each frame, with `action` and perhaps `next.reward`
`videos/CAMERA/...`    the frames of one camera

Row t of the data belongs to frame t: its action was taken there, and leads to frame t + 1.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet
from pydantic import (
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import DAMAGED_ARRAYS, UserError, explain_validation
from cwm.infra.files import sha256
from cwm.recorded.episode import Recording, choose_camera, damaged, steps
from cwm.videos.datasets import DatasetConfig
from cwm.videos.ffmpeg import Clip, DecodeError, check_ffmpeg, decode
from cwm.videos.store import Steps

INFO = "meta/info.json"
VERSION = "v3.0"
ROUNDING = 0.25  # frames by which a timestamp may differ from that of a frame
FRAMES = {"episode_index", "frame_index", "action"}  # columns of the data


@with_config(ConfigDict(extra="ignore"))
class _Version(TypedDict):
    codebase_version: str


@with_config(ConfigDict(extra="ignore"))
class _Feature(TypedDict):
    dtype: str


@with_config(ConfigDict(extra="ignore"))
class _Info(TypedDict):
    fps: PositiveFloat
    total_episodes: NonNegativeInt
    data_path: str
    video_path: str | None
    features: dict[str, _Feature]


class _Row(NamedTuple):
    """An episode in `meta/episodes`."""

    episode: NonNegativeInt
    length: PositiveInt
    tasks: list[str]
    data_chunk: NonNegativeInt
    data_file: NonNegativeInt
    video_chunk: NonNegativeInt
    video_file: NonNegativeInt
    begin: NonNegativeFloat  # seconds in the video
    end: NonNegativeFloat


@dataclass
class _Dataset:
    root: Path
    cfg: DatasetConfig
    scratch: Path

    @cached_property
    def info(self) -> _Info:
        path = self.root / INFO
        version = json_file.read(path, _Version)["codebase_version"]
        if version != VERSION:
            remedy = f"{VERSION} works, to which LeRobot converts v2.1 (convert_dataset_v21_to_v30)"
            raise UserError(
                f"{path}: LeRobot datasets of version {version} cannot be read; {remedy}"
            )
        return json_file.read(path, _Info)

    @cached_property
    def camera(self) -> str:
        kinds = {name: feature["dtype"] for name, feature in self.info["features"].items()}
        if (chosen := self.cfg.camera) and kinds.get(chosen) == "image":
            raise UserError(
                f"{self.root}: camera {chosen} is stored as images; only videos can be read"
            )
        videos = [name for name, kind in kinds.items() if kind == "video"]
        return choose_camera(self.root, chosen, videos)

    def rows(self) -> list[_Row]:
        """All episodes, by number; UserError if a table is missing, damaged or inconsistent."""
        video = f"videos/{self.camera}"
        columns = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
        columns += [f"{video}/{name}" for name in ("chunk_index", "file_index")]
        columns += [f"{video}/{name}" for name in ("from_timestamp", "to_timestamp")]
        paths = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not paths:
            raise UserError(f"no meta/episodes/*/*.parquet in {self.root}")
        rows: list[_Row] = []
        for path in paths:
            try:
                table = _read_table(path, columns)
                found = zip(*(table[name].to_pylist() for name in columns), strict=True)
                rows += TypeAdapter(list[_Row]).validate_python(list(found))
            except ValidationError as error:
                raise UserError(explain_validation(str(path), error)) from error
            except DAMAGED_ARRAYS as error:
                raise UserError(f"{path}: {damaged(error)}") from error
        count = Counter(row.episode for row in rows)
        if twice := [episode for episode, n in count.items() if n > 1]:
            raise UserError(f"{self.root}/meta/episodes lists episode {min(twice)} twice")
        if len(rows) != self.info["total_episodes"]:
            said = f"{self.root / INFO} says {self.info['total_episodes']} episodes"
            raise UserError(f"{said}, and meta/episodes lists {len(rows)}")
        return sorted(rows)

    def path(self, kind: str, chunk: int, file: int) -> str:
        """Path of a data or video file below the root, from the template in `info.json`."""
        template = self.info["data_path"] if kind == "data" else self.info["video_path"]
        names = {"chunk_index": chunk, "file_index": file, "video_key": self.camera}
        try:
            path = PurePosixPath((template or "").format(**names))
        except (LookupError, ValueError, AttributeError) as error:
            problem = f"{kind}_path {template!r} is not a template of chunk_index and file_index"
            raise UserError(f"{self.root / INFO}: {problem}") from error
        if path.is_absolute() or ".." in path.parts or path == PurePosixPath():
            raise UserError(
                f"{self.root / INFO}: {kind}_path {template!r} leads out of the dataset"
            )
        return str(path)


def recordings(root: Path, cfg: DatasetConfig, scratch: Path) -> Iterator[Recording]:
    """The episodes of a dataset; UserError if the dataset as a whole is unusable."""
    dataset = _Dataset(root, cfg, scratch)
    if "action" not in dataset.info["features"]:
        raise UserError(f"{root / INFO} lists no feature `action`")
    rows = dataset.rows()
    check_ffmpeg(scratch)
    videos = [dataset.path("video", row.video_chunk, row.video_file) for row in rows]
    share = Counter(videos)
    checksum = lru_cache(None)(lambda video: _checksum(root / video))
    decoded = lru_cache(1)(partial(_decode, dataset))
    table = lru_cache(1)(partial(_data, root))
    for row, video in zip(rows, videos, strict=True):
        name = f"episode_{row.episode:06d}"
        size, digest = checksum(video)
        facts = f"{digest} {row.begin!r} {row.end!r} {row.length}"
        yield Recording(
            name,
            hashlib.sha256(facts.encode()).hexdigest() if digest else name,
            size // share[video],
            partial(_segment, decoded, video, row, dataset.info["fps"]),
            partial(_steps, table, dataset.path("data", row.data_chunk, row.data_file), row),
            row.tasks[0] if len(row.tasks) == 1 else None,
        )


def _checksum(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_size, sha256(path)
    except OSError:
        return 0, ""  # decoding says why


def _decode(dataset: _Dataset, video: str) -> Clip | DecodeError:
    """All frames of a video file; an error is returned, so that it is cached."""
    cfg, fps = dataset.cfg, dataset.info["fps"]
    try:
        path = dataset.root / video
        clip = decode(path, cfg.geometry, cfg.time_limit, scratch=dataset.scratch)
    except DecodeError as error:
        return error
    if clip.seconds is None or abs(clip.seconds * fps - len(clip.frames)) > 1:
        rate = f"{len(clip.frames)} frames in {clip.seconds} s"
        return DecodeError(f"{rate}, and {INFO} says {fps:g} frames per second")
    return clip


def _segment(
    decoded: Callable[[str], Clip | DecodeError], video: str, row: _Row, fps: float
) -> Clip:
    """The frames of an episode."""
    clip = decoded(video)
    if isinstance(clip, DecodeError):
        raise DecodeError(f"{video}: {clip}") from clip.__cause__
    begin, end = round(row.begin * fps), round(row.end * fps)
    where = f"{video}: the segment from {row.begin:g} to {row.end:g} s"
    if max(abs(row.begin * fps - begin), abs(row.end * fps - end)) > ROUNDING:
        raise DecodeError(f"{where} does not begin and end at frames of {fps:g} per second")
    if end - begin != row.length:
        raise DecodeError(f"{where} has {end - begin} frames, and the episode {row.length}")
    if end > len(clip.frames):
        raise DecodeError(f"{where} ends after the video, which has {len(clip.frames)} frames")
    return clip._replace(frames=clip.frames[begin:end], seconds=row.length / fps)


def _data(root: Path, data: str) -> pa.Table | DecodeError:
    """The rows of all episodes in a data file; an error is returned, so that it is cached."""
    try:
        return _read_table(root / data, sorted(FRAMES), ["next.reward"])
    except DAMAGED_ARRAYS as error:
        found = DecodeError(f"{data}: {damaged(error)}")
        found.__cause__ = error
        return found


def _read_table(path: Path, columns: list[str], optional: list[str] | None = None) -> pa.Table:
    """Columns of a Parquet file; raises one of DAMAGED_ARRAYS."""
    names = parquet.read_schema(path).names
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"it has no column {', '.join(missing)}")
    return parquet.read_table(path, columns=columns + [x for x in optional or [] if x in names])


def _steps(read: Callable[[str], pa.Table | DecodeError], data: str, row: _Row) -> Steps:
    """The steps of an episode: all rows but the last, whose action leads to no frame."""
    table = read(data)
    if isinstance(table, DecodeError):
        raise table
    try:
        mine = table.filter(pc.equal(table["episode_index"], row.episode))
        order = mine["frame_index"].to_numpy()
        if not np.array_equal(order, np.arange(row.length)):
            expected = f"frame_index 0 to {row.length - 1}"
            raise DecodeError(f"{data}: its {len(order)} rows do not have {expected} in order")
        reward = _matrix(mine["next.reward"]) if "next.reward" in mine.column_names else None
        found = steps(_matrix(mine["action"]), reward)
    except DAMAGED_ARRAYS as error:
        raise DecodeError(f"{data}: {damaged(error)}") from error
    return Steps(found.action[:-1], None if found.reward is None else found.reward[:-1])


def _matrix(column: pa.ChunkedArray) -> Any:
    """A column of numbers, or of lists of equal length, as an array (N, ...); a null is NaN."""
    array = column.combine_chunks()
    if not pa.types.is_nested(array.type):
        return array.to_numpy(zero_copy_only=False)[:, None]
    lengths = pc.list_value_length(array).unique().to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f"a column has lists of {lengths} values")
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), lengths[0])
