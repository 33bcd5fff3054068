"""The settings of a dataset, and the clips in its folder."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import (
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import sha256, walk
from cwm.infra.store_json import Split
from cwm.settings import Share
from cwm.videos import images
from cwm.videos.codec import Codec
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
    "stills": images.STILLS,
    "episode": images.EPISODES,
}
Kind = Literal["video", "stills", "episode"]
GROUP = "group"  # in dataset.names: clips of a group are held out together
Bound = FiniteFloat | tuple[FiniteFloat, ...]  # of all values of an action, or of each one
# observed: the smallest and the largest action of the dataset, for each value of an action
ActionRange = tuple[Bound, Bound] | Literal["observed"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MixtureMember:
    """A dataset in a mixture, or the part of it that is used."""

    dataset: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")]  # its name
    weight: PositiveFloat = 1.0  # relative probability of this member, for each clip of a batch
    first_parts: PositiveInt | None = None  # use its first decoded parts only; none: all
    clips: PositiveInt | None = None  # random clips to train on; none: all
    heldout: PositiveInt | None = None  # held-out clips to keep, the rest is trained on; none: all


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DatasetConfig:
    """One dataset: its clips, how they are decoded, and which are held out."""

    source: Literal["folder", "standin"] = "folder"  # standin: generated videos
    folder: Path | None = None  # none: data/<name of the dataset>
    archives: tuple[Archive, ...] = ()  # to download, or to fetch by hand, and extract
    by_hand: str = ""  # instructions for a download by hand, and the licence
    gigabytes: PositiveFloat | None = None  # disk space of archives and content
    kinds: tuple[Kind, ...] = ("video",)  # files to look for
    names: str = r"(?:.*/)?(?P<label>[^/]+)/[^/]+"  # regular expression: named groups of a path
    annotations: dict[Split, str] = Field(default_factory=dict)  # glob pattern of a JSON file
    skip: NonNegativeInt = 0  # stills left out at the beginning of a clip
    every: PositiveInt = 1  # of the other stills, keep those whose number is a multiple
    standin: SyntheticConfig = SyntheticConfig()
    recorded: bool = False  # episodes with actions, which `cwm import` reads: docs/recorded-data.md
    camera: str | None = None  # of recorded episodes with several cameras
    action_range: ActionRange = (-1.0, 1.0)  # recorded actions that become -1 and 1
    geometry: Geometry = Geometry()
    codec: Codec = "raw"  # h264: a store of a thirtieth of the size, not lossless (docs/data.md)
    min_frames: PositiveInt = 25  # shorter clips are left out (reference: length of a segment)
    prioritize_ends: bool = False  # draw the last window of a clip far more often
    duplicates: Literal["keep", "drop"] = "keep"  # drop: of clips with equal frames keep the first
    heldout: Share = 0.1  # share of the clips
    max_failures: Share = 0.01  # share of the clips that may fail to decode
    time_limit: PositiveFloat = 600.0  # seconds to decode one video
    parts: PositiveInt = 64  # decoding jobs
    only_parts: tuple[NonNegativeInt, ...] = ()  # use the clips of these parts only; none: all
    members: tuple[MixtureMember, ...] = ()  # a mixture of datasets, instead of all the above
    seed: NonNegativeInt = 0  # of the choice of the members' clips

    @field_validator("names")
    @classmethod
    def _is_a_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _parts_exist(self) -> Self:
        wrong = [part for part in self.only_parts if part >= self.parts]
        if wrong or len({*self.only_parts}) < len(self.only_parts):
            problem = f"names part {wrong[0]}" if wrong else "names a part twice"
            raise ValueError(f"only_parts {problem}; valid are parts 0 to {self.parts - 1}")
        return self


class ClipRecord(NamedTuple):
    """A clip, described without decoding it."""

    file: str  # relative to the root, with forward slashes; of stills, the first
    bytes: int
    sha256: str | None  # of stills: of their names and sizes; none: the file cannot be read
    label: str | None
    split: Split
    attributes: dict[str, str]  # other named groups of the path: subject, camera, ...
    stills: Stills | None = None  # none: one file

    @property
    def identity(self) -> str:
        """The sha256, or the name of a file that cannot be read."""
        return self.sha256 or self.file


class Candidate(NamedTuple):
    """A clip in a folder, with its annotation."""

    file: str
    stills: Stills | None = None
    label: str | None = None
    split: Split | None = None
    attributes: dict[str, str] | None = None  # of a stand-in
    bytes: int | None = None  # when it was listed; none: the file cannot be read


def folder_of(name: str, cfg: DatasetConfig) -> Path:
    """Folder of a dataset's files."""
    return cfg.folder or Path("data") / name


def find(root: Path, cfg: DatasetConfig) -> Iterator[Candidate]:
    """All clips below a folder; UserError without the folder.

    With annotations, exactly the annotated clips: a missing file is listed, and fails to decode. Of
    several files with one name, the first by path is used.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; {_expected(cfg)}")
    return _annotated(root, cfg) if cfg.annotations else _clips(root, cfg)


def nothing_found(root: Path, cfg: DatasetConfig) -> UserError:
    """The error for a folder without clips."""
    return UserError(f"no clips in {root}; {_expected(cfg)}")


def _suffixes(cfg: DatasetConfig) -> tuple[str, ...]:
    return tuple(suffix for kind in cfg.kinds for suffix in SUFFIXES[kind])


def _expected(cfg: DatasetConfig) -> str:
    how = f". {' '.join(cfg.by_hand.split())}" if cfg.by_hand else ""
    return f"expected: a folder of clips, {', '.join(_suffixes(cfg))}{how}"


def _clips(root: Path, cfg: DatasetConfig, others: list[Path] | None = None) -> Iterator[Candidate]:
    """Clips in the order of the folders; other files are added to `others`."""
    suffixes = _suffixes(cfg)
    for base, names in walk(root):
        folder = base.relative_to(root)
        stills = []
        for path in names if folder == Path() else [f"{folder.as_posix()}/{x}" for x in names]:
            if not path.lower().endswith(suffixes):
                if others is not None:
                    others.append(Path(path))
            elif path.lower().endswith(images.STILLS):
                stills.append(path)
            else:
                yield Candidate(path)
        for clip in images.group_stills(stills, cfg.skip, cfg.every):  # never of several folders
            yield Candidate(*clip)


def _annotated(root: Path, cfg: DatasetConfig) -> Iterator[Candidate]:
    others: list[Path] = []
    clips = sorted(_clips(root, cfg, others), key=lambda clip: clip.file)
    if not clips:
        return
    known = _annotations(root, others, cfg)
    named: dict[str, list[str]] = {name: [] for name in known}
    for clip in clips:
        named.get(Path(clip.file).stem, []).append(clip.file)
    several = [found for found in named.values() if len(found) > 1]
    if several:
        (first, *more), count = several[0], len(several)
        what = "%d annotated clips have several files; the first by path is used: %s, not %s%s"
        log.warning(what, count, first, ", ".join(more), "; ..." if count > 1 else "")
    yield from (Candidate((named[x] or [x])[0], None, *about) for x, about in known.items())


class _Annotation(TypedDict):
    id: str | int
    template: str


def _annotations(root: Path, files: list[Path], cfg: DatasetConfig) -> dict[str, tuple[str, Split]]:
    """Label and split by the name of a clip, from JSON files as Something-Something has them."""
    known: dict[str, tuple[str, Split]] = {}
    for split, pattern in cfg.annotations.items():
        paths = [root / path for path in files if _matches(path, pattern)]
        if len(paths) != 1:
            count = f"{len(paths)} files {pattern} in {root}, expected one"
            raise UserError(f"{count}; {_expected(cfg)}")
        for entry in json_file.read(paths[0], list[_Annotation], _expected(cfg)):
            known[str(entry["id"])] = (re.sub(r"[\[\]]", "", entry["template"]), split)
    return known


def _matches(path: Path, pattern: str) -> bool:
    """Whether a relative path matches a glob pattern; a leading `**/` matches any depth."""
    rest = pattern.removeprefix("**/")
    return path.match(rest) and (rest != pattern or len(path.parts) == len(Path(rest).parts))


def describe(root: Path, clip: Candidate, cfg: DatasetConfig) -> ClipRecord:
    """Describe a clip without decoding it; a file that cannot be read has no sha256."""
    try:
        size, checksum = digest(root, clip)
    except OSError:
        size, checksum = 0, None
    return record_of(clip, size, checksum, cfg)


def record_of(clip: Candidate, size: int, checksum: str | None, cfg: DatasetConfig) -> ClipRecord:
    """The record of a clip; `cfg.names` gives its label and attributes, a hash its split."""
    match = re.fullmatch(cfg.names, clip.file)
    groups = match.groupdict() if match else {}
    attributes = {name: value for name, value in groups.items() if value is not None}
    label, group = attributes.pop("label", None), attributes.pop(GROUP, clip.file)
    split: Split = "heldout" if is_heldout(group, cfg.heldout) else "train"
    label, split = clip.label or label, clip.split or split
    attributes |= clip.attributes or {}
    return ClipRecord(clip.file, size, checksum, label, split, attributes, clip.stills)


def sizes(root: Path, clip: Candidate | ClipRecord) -> dict[str, int]:
    """Sizes of a clip's files by name; raises OSError if one cannot be read."""
    files = images.still_names(clip.file, clip.stills) if clip.stills else [clip.file]
    return {file: (root / file).stat().st_size for file in files}


def digest(root: Path, clip: Candidate | ClipRecord) -> tuple[int, str]:
    """Size and checksum of a clip's files; raises OSError if one cannot be read."""
    found = sizes(root, clip)
    if clip.stills is None:
        return found[clip.file], sha256(root / clip.file)
    facts = [[*found], [*found.values()]]
    return sum(found.values()), hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def is_heldout(file: str, share: float) -> bool:
    """Whether a clip is held out: a function of its name alone, so new files move no other."""
    return hash_uniform("heldout", file) < share * 2**64


def hash_uniform(salt: str, name: str) -> int:
    """Deterministic hash of a name, uniform over 0 .. 2**64 - 1; `salt` makes it independent."""
    digest = hashlib.sha256(os.fsencode(f"{salt} {name}")).digest()
    return int.from_bytes(digest[:8], "big")
