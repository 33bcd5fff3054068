"""Speed of decoding and storing against plain ffmpeg: python bench/decoding.py [--clips 60]

Both decode the same synthetic files with the same number of processes, alternately, three times.
Plain is `ffmpeg -vf scale=64:64` without output; ours also checks every file, hashes its frames and
stores them. Then the peak memory of decoding many small clips, which must not grow with their
number.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.record import Record, in_new_process, peak_memory
from cwm.videos.build import make_clips
from cwm.videos.collect import collect
from cwm.videos.datasets import DatasetConfig
from cwm.videos.decode import decode_part, part_folder
from cwm.videos.encode import H264, encode
from cwm.videos.ffmpeg import ffmpeg_exe
from cwm.videos.store import ClipStore
from cwm.videos.synthetic import SyntheticConfig

ROUNDS = 3
PLAIN = (
    "{ffmpeg} -v error -nostdin -threads 1 -i {file} -vf scale=64:64 -fps_mode passthrough"
    " -pix_fmt rgb24 -f rawvideo -y /dev/null"
)


def bare(files: list[Path], processes: int) -> None:
    def run(file: Path) -> None:
        words = [word.format(ffmpeg=ffmpeg_exe(), file=file) for word in PLAIN.split()]
        subprocess.run(words, check=True)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(run, files))


def ours(folder: Path, out: Path, processes: int) -> ClipStore:
    cfg = DatasetConfig(folder=folder, parts=1, min_frames=1)
    collect("bench", cfg, out, processes)
    decode_part("bench", cfg, out / "videos.json", 0, out / part_folder(0), processes)
    make_clips("bench", cfg, out / "videos.json", out)
    return ClipStore.open(out / "store.json")


def compare(work: Path, clips: int, processes: int, record: Record) -> None:
    cfg = DatasetConfig(source="standin", standin=SyntheticConfig("something", clips))
    collect("something", cfg, work / "videos", processes)
    files = sorted((work / "videos").rglob("*.webm"))
    times = []
    for number in range(ROUNDS):
        start = time.perf_counter()
        bare(files, processes)
        middle = time.perf_counter()
        store = ours(work / "videos", work / f"out{number}", processes)
        times.append((middle - start, time.perf_counter() - middle))
    for name, seconds in zip(("bare ffmpeg", "ours"), zip(*times, strict=True), strict=True):
        record.add(name, store.info["frames"] / statistics.median(seconds), "frames/s")


def many(count: int, processes: int) -> float:
    """Peak memory in MB after decoding `count` small clips and reading batches of them."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        encode(work / "videos/0.mp4", np.zeros((5, 32, 32, 3), np.uint8), 12, H264)
        content = (work / "videos/0.mp4").read_bytes()
        for number in range(1, count):  # trailing bytes make every file different
            (work / f"videos/{number}.mp4").write_bytes(content + b"\0\0\0\x0cfree%04d" % number)
        store = ours(work / "videos", work / "out", processes)
        for i in range(50):
            store.sample(0, i, 16, 5)
        return peak_memory()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--many", type=int, nargs="*", default=[300, 1000])
    options = parser.parse_args(arguments)
    record = Record("decoding", **vars(options))
    with tempfile.TemporaryDirectory() as work:
        compare(Path(work), options.clips, options.processes, record)
    for count in options.many:
        peak = in_new_process(many, count, options.processes)
        record.add(f"{count} small clips/peak memory", peak, "MB")
    record.save()


if __name__ == "__main__":
    main()
