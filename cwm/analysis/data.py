"""The data page: what a clip store holds, and what happened to every file it was made from."""

from pathlib import Path
from typing import Any

from cwm.infra.store_json import ExperienceInfo, StoreMember, read_store


def data_page(store: Path) -> dict[str, str]:
    """The lines of the data page, by name; what a store.json does not record is left out."""
    info: dict[str, Any] = {**read_store(store)}
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
        "actions": _actions(info["experience"]) if "experience" in info else "",
        "variety": _counts(info.get("variety", {})),
        "clips": _counts(info["clips"]),
        "frames": f"{info['frames']:,}{minutes}",
        "manifest": info["sha256"].get("manifest", "unknown"),
        "preview": store.with_name("contact.png").as_posix(),
    }
    return {name: text for name, text in lines.items() if text}


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in numbers.items())


def _actions(experience: ExperienceInfo) -> str:
    rewards = "with" if "rewards.npy" in experience["sha256"] else "without"
    return f"{len(experience['low'])} values, {rewards} rewards"


def _member(member: StoreMember) -> str:
    limits = {"clips for training": member["clips"], "held out": member["heldout"]}
    text = [f"{limit:,} {what}" for what, limit in limits.items() if limit]
    return member["dataset"] + (f" ({', '.join(text)})" if text else "")
