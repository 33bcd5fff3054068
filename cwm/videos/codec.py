"""The kinds of shards: raw frames, or frames compressed by H.264."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Union

from cwm.videos.raw import RawShard

if TYPE_CHECKING:
    from cwm.videos.h264 import H264Shard

Codec = Literal["raw", "h264"]
Shard = Union[RawShard, "H264Shard"]
SUFFIXES: dict[Codec, str] = {"raw": ".npy", "h264": ".h264"}


def shard_name(number: int, codec: Codec = "raw") -> str:
    """File name of a shard."""
    return f"frames-{number:05d}{SUFFIXES[codec]}"


def open_shard(path: Path) -> Shard:
    """The shard of a name that `shard_name` gave; it need not exist yet."""
    if path.suffix != SUFFIXES["h264"]:
        return RawShard(path)
    from cwm.videos.h264 import H264Shard  # PyAV is an extra

    return H264Shard(path)
