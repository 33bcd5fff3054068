"""The data page: what a clip store holds, and what became of every file it was made from."""

from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict
from typing_extensions import TypedDict

from cwm.infra import json_file


class _Clips(TypedDict):
    """What every store says of its clips."""

    __pydantic_config__ = ConfigDict(extra="allow")
    dataset: str
    clips: dict[str, int]
    frames: int
    seconds: NotRequired[float]
    sha256: dict[str, str]


class _Made(_Clips):
    """And one whose clips were decoded."""

    videos: dict[str, int]
    reasons: dict[str, int]
    bytes: int
    sizes: dict[str, int]
    geometry: dict[str, Any]
    labels: list[str]
    variety: dict[str, int]


class _Member(TypedDict):
    dataset: str
    clips: int | None
    heldout: int | None


class _Mixed(_Clips):
    """And one that is made of others."""

    members: list[_Member]


def data_page(store: Path) -> dict[str, str]:
    """What to say of a `store.json`, line by line, for people."""
    info = json_file.read(store, _Mixed if "members" in json_file.read(store) else _Made)
    page = {"dataset": info["dataset"]}
    if "members" in info:
        page["members"] = ", ".join(map(_member, info["members"]))
    else:
        page["files"] = _counts(info["videos"], sum(info["videos"].values()), "found")
        if info["reasons"]:
            page["left out"] = "; ".join(f"{n} {why}" for why, n in info["reasons"].items())
        page["size"] = f"{info['bytes'] / 1e6:,.1f} MB; {_counts(info['sizes'])} pixels"
        page["geometry"] = ", ".join(f"{name} {x}" for name, x in info["geometry"].items() if x)
        page["labels"] = f"{len(info['labels'])}: {_some(info['labels'])}"
        page["variety"] = _counts(info["variety"]) or "nothing known"
    seconds = f", {info['seconds'] / 60:,.1f} minutes" if info.get("seconds") else ""
    page["clips"] = _counts(info["clips"])
    page["frames"] = f"{info['frames']:,}{seconds}"
    page["manifest"] = info["sha256"].get("manifest", "unknown")
    page["look at"] = store.with_name("contact.png").as_posix()
    return page


def _counts(numbers: dict[str, int], total: int | None = None, what: str = "") -> str:
    words = [f"{n:,} {name}" for name, n in numbers.items()]
    return ", ".join(([f"{total:,} {what}"] if total is not None else []) + words)


def _some(names: list[str], n: int = 8) -> str:
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "")


def _member(member: _Member) -> str:
    limits = {"clips": "clips trained on", "heldout": "held out"}
    said = [f"{member[key]:,} {what}" for key, what in limits.items() if member[key]]
    return member["dataset"] + (f" ({', '.join(said)})" if said else "")
