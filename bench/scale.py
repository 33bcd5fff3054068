"""Memory and CPU seconds of each step from names to batches: python bench/scale.py --clips 1000000

Names and outcomes of clips are synthetic: a hundredth of them has the frames of another clip, and a
thousandth failed. Shards are sparse files. Each step runs in a new process, whose peak memory is
reported. CPU seconds, because other processes may share the cores.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow.parquet import write_table

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.record import Record, in_new_process, peak_memory
from cwm.infra.files import sha256
from cwm.videos.build import make_clips, mix_clips
from cwm.videos.codec import shard_name
from cwm.videos.collect import write_lists
from cwm.videos.datasets import Candidate, DatasetConfig
from cwm.videos.decode import key, part_folder
from cwm.videos.ffmpeg import FRAME_BYTES
from cwm.videos.lists import OUTCOMES, list_name, write_list
from cwm.videos.raw import HEADER
from cwm.videos.store import ClipStore

FRAMES, LENGTH, BATCH, BATCHES, MEMBERS = 45, 25, 16, 500, 100
PER_SHARD = 2**30 // FRAME_BYTES // FRAMES  # clips


def name(number: int) -> str:
    return f"label-{number % 1000}/video-{number:08d}.webm"


def list_clips(folder: Path, clips: int, parts: int) -> None:
    """Divide the names among the parts, as `cwm collect` does with the names that it finds."""
    names = (Candidate(name(number), bytes=number) for number in range(clips))
    write_lists(names, parts, ".", folder)


def make_parts(folder: Path, clips: int, parts: int) -> None:
    """Write what decoding jobs would write; every `parts`-th clip is of the same part."""
    for part in range(parts):
        numbers = np.arange(part, clips, parts)
        place, listed = folder / part_folder(part), folder / list_name(part)
        place.mkdir()
        write_list(listed, [], {"root": ".", "part": part, "parts": parts})
        decoded = numbers % 1000 != 500
        shard, row = np.divmod(np.cumsum(decoded) - 1, PER_SHARD)
        columns = {
            "file": [name(number).encode() for number in numbers.tolist()],
            "bytes": numbers,
            "sha256": checksums(2 * numbers),
            "label": [b"label-%d" % (number % 1000) for number in numbers.tolist()],
            "split": np.where(numbers % 10, "train", "heldout"),
            "attributes": [[]] * len(numbers),
            "reason": [None if x else b"ffmpeg: invalid data" for x in decoded.tolist()],
            "content": checksums(2 * (numbers - (numbers % 100 == 99)) + 1),
            "cuts": [[]] * len(numbers),
            "seconds": np.full(len(numbers), 3.75),
            "shard": shard,
            "offset": row * FRAMES,
        }
        columns |= {x: np.full(len(numbers), n) for x, n in SIZES.items()}
        about = {"part": part, "parts": parts, "list": sha256(listed), "key": key(DatasetConfig())}
        schema = OUTCOMES.with_metadata({"contextwm": json.dumps(about)})
        table = pa.table(columns, OUTCOMES).cast(schema)
        write_table(table, place / "part.parquet", compression="zstd", write_page_checksum=True)
        for number in range(int(shard[-1]) + 1):
            with (place / shard_name(number)).open("wb") as file:
                file.truncate(HEADER + PER_SHARD * FRAMES * FRAME_BYTES)


SIZES = {"width": 427, "height": 240, "frames": FRAMES}


def checksums(numbers: np.ndarray) -> pa.Array:
    """32 bytes for each number that look random."""
    words = (numbers[:, None] * 4 + np.arange(4) + 1).astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    data = pa.py_buffer(words.tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(numbers), [None, data])


def gather(folder: Path, clips: int, parts: int) -> None:
    """Sort, find duplicates, and write manifest, index and `store.json`."""
    cfg = DatasetConfig(parts=parts, duplicates="drop")
    make_clips("made-up", cfg, folder / "videos.json", folder)


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
    """Draw from a mixture of a hundred stores; all of them are this one, opened again."""
    cfg = DatasetConfig(members=({"dataset": "made-up"},) * MEMBERS)
    mix_clips("mixed", cfg, [folder / "store.json"] * MEMBERS, folder / "mixed")
    store = ClipStore.open(folder / "mixed/store.json")
    for i in range(BATCHES):
        store.sample(0, i, BATCH, LENGTH)


STEPS: dict[str, Callable[[Path, int, int], None]] = {
    "list": list_clips,
    "set-up": make_parts,
    "gather": gather,
    "open": open_store,
    "draw": draw,
    "mixture": draw_from_mixture,
}


def measured(step: str, folder: Path, clips: int, parts: int) -> tuple[float, float, float]:
    """CPU seconds of a step, peak memory and memory before it, in MB."""
    before, start = peak_memory(), time.process_time()
    STEPS[step](folder, clips, parts)
    return time.process_time() - start, peak_memory(), before


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=[*STEPS][:-1])
    parser.add_argument("--parts", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="for the files; default: a temporary one")
    options = parser.parse_args(arguments)
    record = Record("scale", **{k: str(v) for k, v in vars(options).items()})
    for clips in options.clips:
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            for step in options.steps:
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
