"""The data page: what a clip store holds, and what happened to every file it was made from."""

from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from cwm.infra import json_file


class _Member(TypedDict):
    dataset: str
    clips: int | None
    heldout: int | None


class _Store(TypedDict):
    """A store.json, of decoded videos or, if it has `members`, of other stores."""

    dataset: str
    clips: dict[str, int]
    frames: int
    seconds: NotRequired[float]
    sha256: dict[str, str]
    members: NotRequired[list[_Member]]
    videos: NotRequired[dict[str, int]]
    reasons: NotRequired[dict[str, int]]
    bytes: NotRequired[int]
    sizes: NotRequired[dict[str, int]]
    geometry: NotRequired[dict[str, Any]]
    labels: NotRequired[list[str]]
    variety: NotRequired[dict[str, int]]


def data_page(store: Path) -> dict[str, str]:
    """The lines of the data page, by name; what a store.json does not record is left out."""
    info = json_file.read(store, _Store)
    files, labels = info.get("videos", {}), info.get("labels", [])
    minutes = f", {info['seconds'] / 60:,.1f} minutes" if info.get("seconds") else ""
    lines = {
        "dataset": info["dataset"],
        "members": ", ".join(map(_member, info.get("members", []))),
        "files": files and f"{sum(files.values()):,} found, {_counts(files)}",
        "left out": "; ".join(f"{n} {reason}" for reason, n in info.get("reasons", {}).items()),
        "size": f"{info['bytes'] / 1e6:,.1f} MB" if "bytes" in info else "",
        "frame sizes": _counts(info.get("sizes", {})),
        "geometry": ", ".join(f"{key} {x}" for key, x in info.get("geometry", {}).items() if x),
        "labels": labels
        and f"{len(labels)}: {', '.join([*labels[:8], *['...'][: len(labels) > 8]])}",
        "variety": _counts(info.get("variety", {})),
        "clips": _counts(info["clips"]),
        "frames": f"{info['frames']:,}{minutes}",
        "manifest": info["sha256"].get("manifest", "unknown"),
        "preview": store.with_name("contact.png").as_posix(),
    }
    return {name: text for name, text in lines.items() if text}


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in numbers.items())


def _member(member: _Member) -> str:
    limits = {"clips for training": member["clips"], "held out": member["heldout"]}
    text = [f"{limit:,} {what}" for what, limit in limits.items() if limit]
    return member["dataset"] + (f" ({', '.join(text)})" if text else "")
