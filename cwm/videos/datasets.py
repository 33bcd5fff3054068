"""Where the clips of a dataset come from, and what is known of them before decoding."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    InstanceOf,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
)
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import read_lines, sha256, walk
from cwm.infra.types import Share
from cwm.videos import episodes, images
from cwm.videos.fetch import Archive
from cwm.videos.ffmpeg import Geometry
from cwm.videos.images import Stills
from cwm.videos.synthetic import SyntheticConfig

log = logging.getLogger(__name__)
VIDEOS = (
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv"
)
SUFFIXES = {
    "video": tuple(VIDEOS.split()),
    "stills": images.SUFFIXES,
    "episode": episodes.SUFFIXES,
}
Kind = Literal["video", "stills", "episode"]
Split = Literal["train", "heldout"]
GROUP = "group"  # in dataset.names: clips of the same group are held out together


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MixtureMember:
    """A dataset that another one is made of, or the part of it that is trained on."""

    dataset: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")]
    weight: PositiveFloat = 1.0  # how often a clip of a batch is one of its, before the others'
    clips: PositiveInt | None = None  # that are trained on, drawn at random; none: all
    heldout: PositiveInt | None = None  # that stay so at most, others are trained on; none: all


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DatasetConfig:
    """One dataset: its clips, how they are decoded, and what is held out."""

    source: Literal["folder", "standin"] = "folder"
    folder: Path | None = None  # none: data/<name of the dataset>
    archives: tuple[Archive, ...] = ()  # to be downloaded, or brought, and unpacked in the folder
    by_hand: str = ""  # what a person has to do to get it, where it cannot be downloaded
    gigabytes: PositiveFloat | None = None  # that archives and content take in the folder
    kinds: tuple[Kind, ...] = ("video",)  # files to look for
    names: str = r"(?:.*/)?(?P<label>[^/]+)/[^/]+"  # what a clip's path says of it: named groups
    annotations: dict[Split, str] = Field(default_factory=dict)  # patterns of JSON files, if any
    skip: NonNegativeInt = 0  # stills left out where a run of them begins
    every: PositiveInt = 1  # of the other stills, those whose number is a multiple are kept
    standin: SyntheticConfig = SyntheticConfig()
    geometry: Geometry = Geometry()
    min_frames: PositiveInt = 25  # shorter clips are left out (reference: length of a segment)
    prioritize_ends: bool = False  # draw the last window of a clip far more often
    duplicates: Literal["keep", "drop"] = "keep"  # of clips with equal frames, all or the first
    heldout: Share = 0.1  # share of the clips that are never trained on
    max_failures: Share = 0.01  # share of the clips that may fail to decode
    time_limit: PositiveFloat = 600.0  # seconds to decode one video
    parts: PositiveInt = 64  # jobs among which the decoding is divided
    members: tuple[MixtureMember, ...] = ()  # instead of all the above
    seed: NonNegativeInt = 0  # of the choice among the members' clips

    @field_validator("names")
    @classmethod
    def _is_a_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


def folder_of(name: str, cfg: DatasetConfig) -> Path:
    """Where the files of a dataset lie."""
    return cfg.folder or Path("data") / name


Text = InstanceOf[str]  # also names that are not UTF-8, as file systems have them


class ClipRecord(NamedTuple):
    """A clip of a corpus as `videos.jsonl` lists it."""

    file: Text  # below the root, with forward slashes; of stills, the first
    bytes: NonNegativeInt
    sha256: str | None  # of stills: of their names and sizes; none: cannot be read
    label: Text | None
    split: Split
    attributes: dict[Text, Text]  # what else its name says: subject, camera, ...
    stills: Stills | None = None  # none: one file

    @property
    def identity(self) -> str:
        """What tells clips apart: their content, or the name where that cannot be read."""
        return self.sha256 or self.file


class Candidate(NamedTuple):
    """A clip in a folder, and what annotations say of it."""

    file: str
    stills: Stills | None = None
    label: str | None = None
    split: Split | None = None


def find(root: Path, cfg: DatasetConfig) -> list[Candidate]:
    """All clips below a folder, sorted; UserError when there are none.

    With annotations, these say which clips there are: others are left out, and a missing one is
    listed, to fail when it is decoded.
    """
    suffixes = tuple(suffix for kind in cfg.kinds for suffix in SUFFIXES[kind])
    if not root.is_dir():
        raise UserError(f"no folder {root}; {_expected(cfg)}")
    files = [(base / name).relative_to(root) for base, names in walk(root) for name in names]
    paths = [path.as_posix() for path in files if path.suffix.lower() in suffixes]
    pictures = [path for path in paths if path.lower().endswith(images.SUFFIXES)]
    clips = [Candidate(path) for path in paths if not path.lower().endswith(images.SUFFIXES)]
    clips += [Candidate(*run) for run in images.runs(pictures, cfg.skip, cfg.every)]
    if not clips:
        raise UserError(f"no clip in {root}; {_expected(cfg)}")
    clips.sort(key=lambda clip: clip.file)
    return _annotated(clips, _annotations(root, files, cfg)) if cfg.annotations else clips


def _annotated(clips: list[Candidate], known: dict[str, tuple[str, Split]]) -> list[Candidate]:
    """The clips that annotations name, sorted; of several with a name, the first by path."""
    named: dict[str, list[str]] = {name: [] for name in known}
    for clip in clips:
        named.get(Path(clip.file).stem, []).append(clip.file)
    several = [files for files in named.values() if len(files) > 1]
    if several:
        (first, *others), count = several[0], len(several)
        what = "annotated names with several files: %d; the first by path is used: %s, not %s%s"
        log.warning(what, count, first, ", ".join(others), "; ..." if count > 1 else "")
    clips = [
        Candidate(files[0] if files else name, None, *known[name]) for name, files in named.items()
    ]
    return sorted(clips, key=lambda clip: clip.file)


def _expected(cfg: DatasetConfig) -> str:
    suffixes = ", ".join(suffix for kind in cfg.kinds for suffix in SUFFIXES[kind])
    how = f". {' '.join(cfg.by_hand.split())}" if cfg.by_hand else ""
    return f"expected: a folder of clips, {suffixes}{how}"


class _Annotation(TypedDict):
    id: str | int
    template: str


def _annotations(root: Path, files: list[Path], cfg: DatasetConfig) -> dict[str, tuple[str, Split]]:
    """Label and split of every clip by its name, from Something-Something's JSON files."""
    known: dict[str, tuple[str, Split]] = {}
    for split, pattern in cfg.annotations.items():
        paths = [root / path for path in files if _matches(path, pattern)]
        if len(paths) != 1:
            what = f"{len(paths)} files {pattern}"
            raise UserError(f"{what} in {root} instead of one; {_expected(cfg)}")
        for entry in json_file.read(paths[0], list[_Annotation], _expected(cfg)):
            known[str(entry["id"])] = (re.sub(r"[\[\]]", "", entry["template"]), split)
    return known


def _matches(path: Path, pattern: str) -> bool:
    """Whether a path below the root has a pattern; `**/` at its beginning: at any depth."""
    rest = pattern.removeprefix("**/")
    return path.match(rest) and (rest != pattern or len(path.parts) == len(Path(rest).parts))


def describe(root: Path, clip: Candidate, cfg: DatasetConfig) -> ClipRecord:
    """What can be said of a clip without decoding; an unreadable one is listed too."""
    attributes = attributes_of(clip.file, cfg.names)
    label, group = attributes.pop("label", None), attributes.pop(GROUP, clip.file)
    split = "heldout" if is_heldout(group, cfg.heldout) else "train"
    try:
        size, checksum = digest(root, clip)
    except OSError:
        size, checksum = 0, None
    told = clip.label or label, clip.split or split
    return ClipRecord(clip.file, size, checksum, *told, attributes, clip.stills)


def digest(root: Path, clip: Candidate | ClipRecord) -> tuple[int, str]:
    """Bytes and checksum of a clip's files as they are now; OSError if one cannot be read."""
    if clip.stills is None:
        path = root / clip.file
        return path.stat().st_size, sha256(path)
    files = images.names(clip.file, clip.stills)
    sizes = [(root / file).stat().st_size for file in files]
    return sum(sizes), hashlib.sha256(json.dumps([files, sizes]).encode()).hexdigest()


def attributes_of(file: str, pattern: str) -> dict[str, str]:
    """What the path of a clip says of it: the named groups that match."""
    match = re.fullmatch(pattern, file)
    return {name: x for name, x in (match.groupdict() if match else {}).items() if x is not None}


def is_heldout(file: str, share: float) -> bool:
    """Whether a video is held out: decided by its own name, so that new files move nobody."""
    return hash_uniform("heldout", file) < share * 2**64


def hash_uniform(lot: str, file: str) -> int:
    """A number below 2**64 that a file draws by its name, whatever others there are."""
    digest = hashlib.sha256(os.fsencode(f"{lot} {file}")).digest()
    return int.from_bytes(digest[:8], "big")


def read_videos(path: Path) -> tuple[Path, Iterator[ClipRecord]]:
    """Root folder of a `videos.jsonl`, and its clips as it is read; UserError if it is none.

    The head is the root, absolute or relative to the file, and its rows are `ClipRecord`s.
    """
    lines = read_lines(path, Text, _Listed, "cwm collect")
    return path.parent / next(lines), lines


def _is_named(video: ClipRecord) -> ClipRecord:
    if "\0" in video.file or (video.stills and not images.NUMBERED.fullmatch(video.file)):
        raise ValueError(f"{video.file!r} is no name of a clip")
    return video


_Listed = Annotated[ClipRecord, AfterValidator(_is_named)]
