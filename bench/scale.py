"""Memory and time of each step from names to batches: python bench/scale.py [--clips 1000000 ...]

Synthetic names and outcomes of clips without videos: a hundredth have the frames of another clip, a
thousandth failed. Shards are sparse files. Each step runs in its own process, which gives its peak
memory; times are CPU seconds, since other processes may share the cores.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.record import Record, in_new_process, peak_memory
from cwm.infra.files import write_json
from cwm.videos.build import make_clips, mix_clips
from cwm.videos.collect import write_lists
from cwm.videos.datasets import Candidate, DatasetConfig, record_of
from cwm.videos.decode import key, part_folder
from cwm.videos.ffmpeg import FRAME_BYTES
from cwm.videos.lists import read_list, write_outcomes
from cwm.videos.shards import SHARD_FRAMES, Stored, shard_name
from cwm.videos.store import HEADER, ClipStore

FRAMES, LENGTH, BATCH, BATCHES, MEMBERS = 45, 25, 16, 500, 100


def settings(parts: int) -> DatasetConfig:
    return DatasetConfig(parts=parts, duplicates="drop")


def list_clips(folder: Path, clips: int, parts: int) -> None:
    """Divide the names among the parts."""
    names = (Candidate(f"label-{i % 1000}/video-{i:08d}.webm", bytes=i) for i in range(clips))
    write_lists(names, parts, ".", folder)
    write_json(folder / "videos.json", {"clips": clips, "parts": parts})


def describe_parts(folder: Path, clips: int, parts: int) -> None:
    """Write the outcomes that decoding would write; frames are holes in sparse files."""
    cfg = settings(parts)
    for part in range(parts):
        listed, place = read_list(folder / "videos.json", part, parts), folder / part_folder(part)
        place.mkdir()
        outcomes, ends = list(_outcomes(listed.clips, cfg)), [0]
        for number, (_, found) in enumerate(outcomes):
            if isinstance(found, Stored):
                if ends[-1] + FRAMES > SHARD_FRAMES:
                    ends.append(0)
                stored = found._replace(shard=len(ends) - 1, offset=ends[-1])
                outcomes[number] = (outcomes[number][0], stored)
                ends[-1] += FRAMES
        for number, frames in enumerate(ends):
            with (place / shard_name(number)).open("wb") as file:
                file.truncate(HEADER + frames * FRAME_BYTES)
        about = {"part": part, "parts": parts, "list": listed.sha256, "key": key(cfg)}
        write_outcomes(place / "part.parquet", outcomes, about)


def _outcomes(clips: list[Candidate], cfg: DatasetConfig) -> Iterator:
    for clip in clips:
        number = clip.bytes
        record = record_of(clip, number, hashlib.sha256(b"%d" % number).hexdigest(), cfg)
        same = number - 1 if number % 100 == 99 else number
        content = hashlib.sha256(b"frames %d" % same).hexdigest()
        found = Stored(record.sha256, content, 427, 240, 3.75, (), FRAMES, 0, 0)
        yield record, "ffmpeg: invalid data" if number % 1000 == 500 else found


def gather(folder: Path, clips: int, parts: int) -> None:
    """Sort, find duplicates, and write manifest, index and `store.json`."""
    make_clips("made-up", settings(parts), folder / "videos.json", folder)


def open_store(folder: Path, clips: int, parts: int) -> None:
    """Open the store."""
    ClipStore.open(folder / "store.json")


def draw(folder: Path, clips: int, parts: int) -> None:
    """Open the store, and draw and read batches, which are holes."""
    store = ClipStore.open(folder / "store.json")
    store.windows(64, LENGTH)
    for i in range(BATCHES):
        store.sample(0, i, BATCH, LENGTH)


def draw_from_mixture(folder: Path, clips: int, parts: int) -> None:
    """Draw from a mixture of a hundred stores; all of them are this one."""
    cfg = DatasetConfig(members=({"dataset": "made-up"},) * MEMBERS)
    mix_clips("mixed", cfg, [folder / "store.json"] * MEMBERS, folder / "mixed")
    store = ClipStore.open(folder / "mixed/store.json")
    for i in range(BATCHES):
        store.sample(0, i, BATCH, LENGTH)


STEPS: dict[str, Callable[[Path, int, int], None]] = {
    "list": list_clips,
    "decode (without decoding)": describe_parts,
    "gather": gather,
    "open": open_store,
    f"open, {BATCHES} batches": draw,
    f"{MEMBERS} members, {BATCHES} batches": draw_from_mixture,
}


def measured(step: str, folder: Path, clips: int, parts: int) -> tuple[float, float, float]:
    """CPU seconds of a step, peak memory and memory before it, in MB."""
    before, start = peak_memory(), time.process_time()
    STEPS[step](folder, clips, parts)
    return time.process_time() - start, peak_memory(), before


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--parts", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="for the files; default: a temporary one")
    options = parser.parse_args(arguments)
    record = Record("scale", **{k: str(v) for k, v in vars(options).items()})
    for clips in options.clips:
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            for step in STEPS:
                seconds, peak, before = in_new_process(measured, step, folder, clips, options.parts)
                record.add(f"{clips:,} clips/{step}", seconds, "CPU s")
                record.add(f"{clips:,} clips/{step}/peak memory", peak, "MB")
                record.add(f"{clips:,} clips/{step}/of this, imports", before, "MB")
            disk = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
            record.add(f"{clips:,} clips/disk", disk / 1e6, "MB")
        finally:
            shutil.rmtree(folder)
    record.save()


if __name__ == "__main__":
    main()
