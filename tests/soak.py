"""Train for an hour at laptop scale and check for leaks: `make soak`.

Pre-training takes two fifths of the time, then fine-tuning on `toy/sphere` with a replay so small
that it overwrites itself many times. Both run as ordinary commands whose memory, open files and
threads are sampled every few seconds; the first half of each is warm-up. The samples are written
to results/soak.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results/soak"
CWM = Path(sys.executable).with_name("cwm")
EVERY = 5.0  # seconds between samples
CAPACITY = 1000  # frames of the replay
FRAME = 64 * 64 * 3 + 4 * 2  # bytes: image, reward and action
ENDLESS = 10**9

# Limits after the warm-up
SLOPE = 20.0  # MB an hour, by a straight-line fit
MORE = 2  # open files, or threads, above the maximum of the warm-up
OVER = 1.5  # times its capacity: files of dropped episodes stay until the next checkpoint


class Sample(NamedTuple):
    """Resources of a process at one time."""

    seconds: float
    rss: float  # MB
    files: int
    threads: int
    replay: float  # MB on disk


def config(**names: str) -> list[str]:
    """Return paths of settings files."""
    return [str(ROOT / "config" / folder / f"{name}.yaml") for folder, name in names.items()]


def cwm(*words: object) -> None:
    """Run a command and wait for it."""
    subprocess.run([CWM, *map(str, words)], cwd=FOLDER, check=True)


def watch(name: str, seconds: float, *words: object) -> list[Sample]:
    """Sample a command for some seconds, then stop it by SIGTERM; it must exit as asked."""
    with (FOLDER / f"{name}.log").open("w") as log:
        child = subprocess.Popen([CWM, *map(str, words)], cwd=FOLDER, stderr=log, stdout=log)
    process, start, samples = psutil.Process(child.pid), time.monotonic(), []
    try:
        while (now := time.monotonic() - start) < seconds:
            if child.poll() is not None:
                sys.exit(
                    f"{name} ended after {now:.0f} s with status {child.returncode}: {log.name}"
                )
            with process.oneshot():
                rss = process.memory_info().rss / 1e6
                held = process.num_fds(), process.num_threads()
            samples.append(Sample(now, rss, *held, replay()))
            time.sleep(EVERY)
    finally:
        child.terminate()
        status = child.wait(60)
    if status != 128 + 15:
        sys.exit(f"{name} ended with status {status} after SIGTERM: see {log.name}")
    with (FOLDER / f"{name}.csv").open("w") as file:
        csv.writer(file).writerows([Sample._fields, *samples])
    return samples


def replay() -> float:
    """Return the size of the replay on disk in MB."""
    sizes = []
    for path in (FOLDER / "results").glob("*/work/*/replay/*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # deleted by the run
            continue
    return sum(sizes) / 1e6


def check(name: str, samples: list[Sample]) -> list[str]:
    """Print a summary; return the limits that were exceeded."""
    half = len(samples) // 2
    warm_up, after = np.array(samples[:half]), np.array(samples[half:])
    (slope, _) = np.polyfit(after[:, 0] / 3600, after[:, 1], 1)
    print(f"{name}: {samples[-1].seconds / 60:.1f} minutes, {len(samples)} samples")
    print(f"  memory        {after[0, 1]:.0f} MB after the warm-up, {after[-1, 1]:.0f} at the end,")
    print(f"                at most {after[:, 1].max():.0f}; slope {slope:+.1f} MB an hour")
    found = [f"memory grows by {slope:.1f} MB an hour"] if slope > SLOPE else []
    for column, what in ((2, "open files"), (3, "threads")):
        most = warm_up[:, column].max(), after[:, column].max()
        print(f"  {what:14}at most {most[0]:.0f} in the warm-up, {most[1]:.0f} after it")
        found += [f"{what} keep growing"] if most[1] > most[0] + MORE else []
    if largest := after[:, 4].max():
        capacity = CAPACITY * FRAME / 1e6
        print(f"  replay        at most {largest:.1f} MB on disk, capacity {capacity:.1f} MB")
        found += ["the replay exceeds its capacity"] if largest > OVER * capacity else []
    return [f"{name}: {what}" for what in found]


def main() -> None:
    """Make videos and clips, then train while sampling."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="of both parts together")
    seconds = 60 * parser.parse_args().minutes
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)

    data = ["something", *config(scale="laptop", dataset="something")]
    cwm("collect", *data, "--out", "videos")
    cwm("decode", *data, "--videos", "videos/videos.json", "--out", "clips/part-000")
    cwm("clips", *data, "--videos", "videos/videos.json", "--out", "clips")
    train = ["pretrain", *data, *config(model="contextwm"), "--clips", "clips/store.json"]
    cwm(*train, "--out", "model", "--set", "pretrain.updates=50")
    endless = [*train, "--out", "never", "--set", f"pretrain.updates={ENDLESS}"]
    samples = {"pre-training": watch("pre-training", 0.4 * seconds, *endless)}
    layers = config(suite="toy", scale="laptop", model="contextwm", variant="standard")
    learn = ["finetune", "toy/sphere", *layers, "--pretrained", "model/weights.json"]
    learn += ["--out", "never", "--set", f"finetune.steps={ENDLESS}"]
    learn += ["--set", f"finetune.replay.capacity={CAPACITY}"]
    samples["fine-tuning"] = watch("fine-tuning", 0.6 * seconds, *learn)
    found = [line for name, each in samples.items() for line in check(name, each)]
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
