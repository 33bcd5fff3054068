"""Speed of decoding and storing against plain ffmpeg: python bench/decode.py [--clips 60]

Both decode the same stand-in files with the same number of processes, alternately, three times.
Plain is `ffmpeg -vf scale=64:64` without output; ours also checks every file, hashes its frames and
stores them. Then the peak memory of decoding many small clips, which must not grow with their
number.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.record import Record, peak_memory
from cwm.videos.build import make_clips
from cwm.videos.datasets import DatasetConfig, collect
from cwm.videos.decode import decode_part, part_folder
from cwm.videos.encode import H264, encode
from cwm.videos.ffmpeg import ffmpeg_exe
from cwm.videos.store import ClipStore
from cwm.videos.synthetic import SyntheticConfig

ROUNDS = 3


def bare(files: list[Path], processes: int) -> None:
    options = ["-v", "error", "-nostdin", "-threads", "1"]
    sink = ["-vf", "scale=64:64", "-fps_mode", "passthrough", "-pix_fmt", "rgb24"]

    def run(file: Path) -> None:
        command = [
            ffmpeg_exe(),
            *options,
            "-i",
            str(file),
            *sink,
            "-f",
            "rawvideo",
            "-y",
            "/dev/null",
        ]
        subprocess.run(command, check=True)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(run, files))


def ours(folder: Path, out: Path, processes: int) -> ClipStore:
    cfg = DatasetConfig(folder=folder, parts=1, min_frames=1)
    collect("bench", cfg, out, processes)
    decode_part("bench", cfg, out / "videos.jsonl", 0, out / part_folder(0), processes)
    make_clips("bench", cfg, out / "videos.jsonl", out)
    return ClipStore.open(out / "store.json")


def compare(work: Path, clips: int, processes: int) -> dict[str, float]:
    cfg = DatasetConfig(source="standin", standin=SyntheticConfig("something", clips))
    collect("something", cfg, work / "videos", processes)
    files = sorted((work / "videos").rglob("*.webm"))
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    for number in range(ROUNDS):
        start = time.perf_counter()
        bare(files, processes)
        seconds["bare"].append(time.perf_counter() - start)
        start = time.perf_counter()
        store = ours(work / "videos", work / f"out{number}", processes)
        seconds["ours"].append(time.perf_counter() - start)
    speed = {name: store.info["frames"] / statistics.median(x) for name, x in seconds.items()}
    return speed | {"share": speed["ours"] / speed["bare"]}


def peak_of_many(count: int, processes: int) -> float:
    """Peak memory in MB of a process that runs `many`."""
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import decode; "
    code += f"decode.many({count}, {processes})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def many(count: int, processes: int) -> None:
    """Decode `count` small clips, then read batches of them; print the peak memory in MB."""
    work = Path(tempfile.mkdtemp())
    try:
        frames = np.zeros((5, 32, 32, 3), np.uint8)
        encode(work / "videos/0.mp4", frames, 12, H264)
        content = (work / "videos/0.mp4").read_bytes()
        for number in range(1, count):  # trailing bytes make every file different
            (work / f"videos/{number}.mp4").write_bytes(content + b"\0\0\0\x0cfree%04d" % number)
        store = ours(work / "videos", work / "out", processes)
        for i in range(50):
            store.sample(0, i, 16, 5)
        print(peak_memory())
    finally:
        shutil.rmtree(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--many", type=int, nargs="*", default=[300, 1000])
    arguments = parser.parse_args()
    record = Record("decode", **vars(arguments))
    with tempfile.TemporaryDirectory() as work:
        speed = compare(Path(work), arguments.clips, arguments.processes)
    print(
        f"{arguments.clips} clips, {arguments.processes} processes, frames/s, medians of {ROUNDS}"
    )
    print(f"bare ffmpeg {speed['bare']:.0f}, ours {speed['ours']:.0f}: {speed['share']:.0%}")
    for name in ("bare", "ours"):
        record.add(name, speed[name], "frames/s")
    for count in arguments.many:
        peak = peak_of_many(count, 2)
        print(f"peak memory with {count} small clips: {peak:.0f} MB")
        record.add(f"{count} small clips/peak memory", peak, "MB")
    record.save()


if __name__ == "__main__":
    main()
