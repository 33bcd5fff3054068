"""`store.json`, the contents of a clip store; of a mixture, it names other stores."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, final

from pydantic import (
    ConfigDict,
    Field,
    InstanceOf,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    with_config,
)
from typing_extensions import TypedDict

from cwm.infra import json_file

Split = Literal["train", "heldout"]
Text = InstanceOf[str]  # may hold surrogates: file names need not be UTF-8


class MixtureChecksums(TypedDict):
    """sha256 of all that sampling depends on, and of the manifest or of the members' manifests."""

    content: str
    manifest: str


class Checksums(MixtureChecksums):
    """The checksums of a mixture, and that of index.npy."""

    index: str


class ExperienceInfo(TypedDict):
    """The actions and rewards of a store of recorded episodes."""

    low: Annotated[list[float], Field(min_length=1)]  # recorded values that became -1
    high: Annotated[list[float], Field(min_length=1)]  # ... and 1
    sha256: dict[Literal["actions.npy", "rewards.npy"], str]


class IndexBlock(TypedDict):
    """A block of rows of a large index.npy."""

    sha256: str
    lengths: dict[Split, dict[PositiveInt, PositiveInt]]  # frames of a clip -> clips


@final
@with_config(ConfigDict(extra="allow"))
class StoreInfo(TypedDict):
    """A store of decoded clips; most optional keys are only shown."""

    dataset: str
    labels: list[Text]
    frame_shape: tuple[Literal[64], Literal[64], Literal[3]]
    frame_bytes: Literal[12288]
    shards: dict[str, NonNegativeInt]  # file -> frames
    sha256: Checksums
    blocks: NotRequired[list[IndexBlock]]  # none: index.npy is small, and read as a whole
    prioritize_ends: NotRequired[bool]
    clips: dict[Split, NonNegativeInt]
    frames: int
    seconds: NotRequired[float]
    bytes: NotRequired[int]  # of the source files
    videos: NotRequired[dict[str, int]]  # status -> files
    reasons: NotRequired[dict[str, int]]  # reason for leaving a file out -> files
    sizes: NotRequired[dict[str, int]]  # frame size -> files
    variety: NotRequired[dict[str, int]]  # attribute -> different values
    geometry: NotRequired[dict[str, Any]]
    min_frames: NotRequired[int]
    parts: NotRequired[list[NonNegativeInt]]  # decoded parts with these clips; none: all
    heldout: NotRequired[float]
    experience: NotRequired[ExperienceInfo]  # none: videos without actions


class StoreMember(TypedDict):
    """A member of a mixture, and the part of it that is used (none: all)."""

    dataset: str
    weight: PositiveFloat
    first_parts: NotRequired[PositiveInt]
    clips: PositiveInt | None
    heldout: PositiveInt | None
    store: str  # its store.json, relative to that of the mixture
    content: str


@final
@with_config(ConfigDict(extra="allow"))
class MixtureInfo(TypedDict):
    """A mixture of other stores."""

    dataset: str
    seed: NonNegativeInt
    members: Annotated[list[StoreMember], Field(min_length=1)]
    clips: dict[Split, NonNegativeInt]
    frames: int
    sha256: MixtureChecksums


def read_store(path: Path) -> StoreInfo | MixtureInfo:
    """Content of a `store.json`; UserError if it is missing or damaged."""
    remedy = "`cwm clips` writes it"
    if "members" in json_file.read(path, remedy=remedy):
        return json_file.read(path, MixtureInfo, remedy)
    return json_file.read(path, StoreInfo, remedy)
