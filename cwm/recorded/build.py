"""Import recorded episodes into one store: frames as in a clip store, with actions and rewards.

Frames already imported are kept, so a killed import resumes. Actions are read again each time.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cwm.infra.errors import UserError
from cwm.infra.files import atomic_write, locked_folder, sha256
from cwm.infra.progress import Progress
from cwm.infra.store_json import ExperienceInfo
from cwm.recorded import files, lerobot, minari
from cwm.recorded.episode import Recording, align
from cwm.videos.build import Row, row_of, write_store
from cwm.videos.datasets import ActionRange, Candidate, DatasetConfig, record_of
from cwm.videos.decode import caused_by_file, key, part_folder
from cwm.videos.ffmpeg import DecodeError
from cwm.videos.shards import Shards, Stored
from cwm.videos.store import Steps

log = logging.getLogger(__name__)
FORMATS = (
    "a LeRobot dataset (meta/info.json), a Minari dataset (data/main_data.hdf5), or a folder of"
)
ROUNDING = 1e-5  # by which a scaled action may exceed 1
MAX_REJECTED = 0.5  # share of the episodes


class _Episode(NamedTuple):
    """An episode that can be read."""

    stored: Stored
    steps: Steps


def import_episodes(name: str, cfg: DatasetConfig, source: Path, out: Path) -> None:
    """Build a store in `out` from the episodes of `source`; `store.json` comes last.

    Raises UserError if `source` as a whole is unusable, or most of its episodes are rejected.
    """
    if cfg.geometry.cuts is not None or cfg.geometry.aspect == "person":
        raise UserError("recorded episodes allow neither dataset.geometry.cuts nor aspect person")
    with locked_folder(out, "importing into"):
        recordings = sorted(open_source(source, cfg, out), key=lambda recording: recording.name)
        shards = Shards(out / part_folder(0), key(cfg), cfg.codec)
        found = _read_all(name, recordings, shards)
        _check_consistency(recordings, found)
        low, high = _scale(cfg.action_range, found)
        rows: list[Row] = []
        first: dict[str, str] = {}
        for x in recordings:
            record = record_of(Candidate(x.name, label=x.label), x.bytes, x.identity, cfg)
            episode = found[x.name]
            if isinstance(episode, _Episode):
                stored = _with_content(episode)
                drop = cfg.duplicates == "drop"
                twin = first.setdefault(stored.content, x.name) if drop else None
                rows.append(row_of(record, stored, part_folder(0), cfg, twin))
            else:
                log.warning("%s: %s is rejected: %s", name, x.name, episode)
                rows.append(row_of(record, episode, part_folder(0), cfg))
        _check_rejected(source, rows)
        kept = [found[row["file"]] for row in rows if row["status"] == "ok"]
        checksums = _write_steps([x.steps for x in kept if isinstance(x, _Episode)], out)
        info: ExperienceInfo = {"low": low, "high": high, "sha256": checksums}

        def fresh() -> Iterator[Row]:
            return (dict(row) for row in rows)

        write_store(name, cfg, fresh, key(cfg), out, MAX_REJECTED, info)


def open_source(source: Path, cfg: DatasetConfig, scratch: Path) -> Iterable[Recording]:
    """The episodes of a source, whose files tell its format; UserError if it is unusable."""
    suffixes = " ".join(files.SUFFIXES)
    if not source.is_dir():
        raise UserError(f"no folder {source}; expected: {FORMATS} {suffixes} files")
    if (source / lerobot.INFO).exists():
        return lerobot.recordings(source, cfg, scratch)
    if (source / minari.METADATA).exists() or (source / minari.MAIN).exists():
        return minari.recordings(source, cfg)
    if cfg.camera is not None:
        raise UserError(f"{source} is a folder of episodes, which have no cameras to choose from")
    found = list(files.recordings(source, cfg.geometry))
    if not found:
        raise UserError(f"no episodes in {source}; expected: {FORMATS} {suffixes} files")
    return found


def _read_all(name: str, recordings: list[Recording], shards: Shards) -> dict[str, _Episode | str]:
    """Every episode by name, or the reason why it is rejected; new frames go to the shards."""
    found: dict[str, _Episode | str] = {}
    try:
        with Progress(len(recordings), label=name) as bar:
            for done, x in enumerate(recordings, start=1):
                try:
                    if x.identity not in shards.clips:
                        clip = x.frames()
                        shards.add(x.identity, clip, shards.encode(clip.frames))
                    stored = shards.clips[x.identity]
                    found[x.name] = _Episode(stored, align(x.steps(), stored.frames))
                except DecodeError as error:
                    found[x.name] = str(caused_by_file(error))
                bar.update(done)
    finally:
        shards.sync()  # also after an error or Ctrl-C
    return found


def _check_consistency(recordings: list[Recording], found: dict[str, _Episode | str]) -> None:
    """Reject episodes whose frame size, action size or rewards differ from those of the first."""
    first: tuple[str, list[str]] | None = None
    for x in recordings:
        episode = found[x.name]
        if not isinstance(episode, _Episode):
            continue
        stored, (action, reward) = episode
        facts = [
            f"frames of {stored.width} x {stored.height}",
            f"actions of {action.shape[1]} values",
            "no rewards" if reward is None else "rewards",
        ]
        first = first or (x.name, facts)
        for mine, theirs in zip(facts, first[1], strict=True):
            if mine != theirs:
                found[x.name] = f"it has {mine}, and {first[0]} has {theirs}"


def _scale(
    action_range: ActionRange, found: dict[str, _Episode | str]
) -> tuple[list[float], list[float]]:
    """Map actions to -1..1 in place, and reject episodes outside; returns what became -1 and 1."""
    episodes = {name: x for name, x in found.items() if isinstance(x, _Episode)}
    if not episodes:
        return [-1.0], [1.0]
    actions = [x.steps.action[1:] for x in episodes.values()]
    size = actions[0].shape[1]
    if action_range == "observed":
        # 64 bits, so that the extremes become exactly -1 and 1
        everything = np.concatenate(actions).astype(np.float64)
        low, high = everything.min(0), everything.max(0)
        constant = low == high
        low, high = low - constant, high + constant
    else:
        low, high = (np.asarray(bound, np.float64) for bound in action_range)
        if any(bound.shape not in ((), (size,)) for bound in (low, high)):
            raise UserError(f"dataset.action_range needs one or {size} values of each bound")
        low, high = np.broadcast_to(low, size), np.broadcast_to(high, size)
        if not (low < high).all():
            raise UserError(f"dataset.action_range: {low.tolist()} is not below {high.tolist()}")
    for name, x in episodes.items():
        scaled = 2 * (x.steps.action - low) / (high - low) - 1
        scaled[0] = 0
        outside = np.abs(scaled) > 1 + ROUNDING
        if outside.any():
            t, value = np.argwhere(outside)[0]
            found[name] = (
                f"action {x.steps.action[t, value]:g} (value {value} of the step to frame {t}) is"
                f" outside {low[value]:g}..{high[value]:g}; set dataset.action_range"
            )
        x.steps.action[:] = scaled.clip(-1, 1)
    return low.tolist(), high.tolist()


def _with_content(episode: _Episode) -> Stored:
    """The frames of an episode, with a checksum that covers its steps too."""
    content = hashlib.sha256(episode.stored.content.encode())
    for array in episode.steps:
        content.update(json.dumps(None if array is None else array.shape).encode())
        content.update(b"" if array is None else array.tobytes())
    return episode.stored._replace(content=content.hexdigest())


def _check_rejected(source: Path, rows: list[Row]) -> None:
    failed = [f"{row['file']}: {row['reason']}" for row in rows if row["status"] == "failed"]
    if len(failed) > MAX_REJECTED * len(rows):
        first = "; ".join(failed[:3])
        raise UserError(f"{len(failed)} of {len(rows)} episodes of {source} are rejected: {first}")


def _write_steps(episodes: list[Steps], out: Path) -> dict:
    """Write actions.npy and, if recorded, rewards.npy; returns their sha256 by name."""
    arrays = {"actions.npy": [x.action for x in episodes]}
    if all(x.reward is not None for x in episodes):
        arrays["rewards.npy"] = [x.reward for x in episodes if x.reward is not None]
    for name, parts in arrays.items():
        with atomic_write(out / name) as part, part.open("wb") as file:
            np.save(file, np.concatenate(parts) if parts else np.zeros((0, 1), np.float32))
    return {name: sha256(out / name) for name in arrays}
