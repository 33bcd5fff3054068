"""Where the videos of a dataset come from, and what is known of them before decoding."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from cwm.data.standins import StandinConfig
from cwm.data.video import Geometry
from cwm.errors import UserError

# fmt: off
SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts",
    ".webm", ".wmv",
)
# fmt: on
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DatasetConfig:
    """One dataset: its videos, how they are decoded, and what is held out."""

    source: Literal["folder", "standin"] = "folder"
    folder: Path | None = None  # of one's own videos; none: data/<name of the dataset>
    standin: StandinConfig = StandinConfig()
    geometry: Geometry = Geometry()
    min_frames: PositiveInt = 25  # shorter clips are left out (reference: length of a segment)
    heldout: Share = 0.1  # share of the videos that are never trained on
    max_failures: Share = 0.01  # share of the videos that may fail to decode
    time_limit: PositiveFloat = 600.0  # seconds to decode one file


class Video(NamedTuple):
    """A file of a corpus as `videos.json` lists it."""

    file: str  # below the root, with forward slashes
    bytes: int
    sha256: str | None  # none: the file could not be read
    label: str | None  # the folder it lies in, if any


def find(root: Path) -> list[str]:
    """Names of all video files below a folder, sorted; raises UserError when there are none."""
    expected = f"a folder of videos ({', '.join(SUFFIXES)}), in folders named by label if any"
    if not root.is_dir():
        raise UserError(f"no folder {root}; expected: {expected}")
    paths = (Path(base) / name for base, _, names in os.walk(root) for name in names)
    files = [path.relative_to(root).as_posix() for path in paths if is_video(path)]
    if not files:
        raise UserError(f"no video in {root}; expected: {expected}")
    return sorted(files)


def is_video(path: Path) -> bool:
    """Whether the name is one of a video; names that begin with a dot are other programs' notes."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def describe(root: Path, file: str) -> Video:
    """Size, checksum and label of one file; an unreadable one is listed too, without checksum."""
    path, folder = root / file, Path(file).parent.name
    try:
        size, digest = path.stat().st_size, sha256(path)
    except OSError:
        size, digest = 0, None
    return Video(file, size, digest, folder or None)


def sha256(path: Path) -> str:
    """Checksum of a regular file; OSError for anything else (a pipe would block for ever)."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_heldout(file: str, share: float) -> bool:
    """Whether a video is held out: decided by its own name, so that new files move nobody."""
    digest = hashlib.sha256(b"heldout " + os.fsencode(file)).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def write_json(path: Path, content: object) -> None:
    """Write a file that is either the old one or the whole new one, and says nothing of time."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    part.replace(path)


def write_videos(path: Path, root: str, videos: Iterable[Video]) -> None:
    """Write `videos.json`; `root` is absolute or relative to the folder of that file."""
    write_json(path, {"root": root, "videos": [video._asdict() for video in videos]})


def read_videos(path: Path) -> tuple[Path, list[Video]]:
    """Root folder and files of a `videos.json`; raises UserError when it is not one."""
    try:
        content = json.loads(path.read_text())
        videos = [Video(**entry) for entry in content["videos"]]
        return path.parent / content["root"], videos
    except FileNotFoundError as error:
        raise UserError(f"no {path}; `cwm videos` writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a list of videos ({error}); run `cwm videos` again"
        ) from error
