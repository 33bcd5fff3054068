"""Train for an hour at laptop scale, and watch what a leak would show in: `make soak`.

Pre-training for two fifths of the time, then fine-tuning on `toy/sphere` with a replay so small
that its ring turns many times. Both are ordinary commands, looked at from outside every few
seconds; the first third of each is warm-up. All samples are left in results/soak.
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
EVERY = 5.0  # seconds between two samples
CAPACITY = 1000  # frames of the replay
FRAME = 64 * 64 * 3 + 4 * 2  # bytes at least: image, reward, an action
ENDLESS = 10**9

# What is still called flat, after the warm-up
SLOPE = 20.0  # MB an hour, of a straight line through all samples
MORE = 2  # open files, or threads, above the most during the warm-up
OVER = 1.5  # times its capacity: files of forgotten episodes stay until the next checkpoint


class Sample(NamedTuple):
    """What a process holds at a moment."""

    seconds: float
    rss: float  # MB
    files: int
    threads: int
    replay: float  # MB on disk


def config(**names: str) -> list[str]:
    """Paths of settings files."""
    return [str(ROOT / "config" / folder / f"{name}.yaml") for folder, name in names.items()]


def cwm(*words: object) -> None:
    """Run a command to its end."""
    subprocess.run([CWM, *map(str, words)], cwd=FOLDER, check=True)


def watch(name: str, seconds: float, *words: object) -> list[Sample]:
    """Samples of a command that would not end by itself, which must stop when it is told to."""
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
        sys.exit(f"{name} ended with status {status} when it was told to stop: see {log.name}")
    with (FOLDER / f"{name}.csv").open("w") as file:
        csv.writer(file).writerows([Sample._fields, *samples])
    return samples


def replay() -> float:
    """MB of episodes on disk."""
    sizes = []
    for path in (FOLDER / "results").glob("*/work/*/replay/*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # pruned meanwhile
            continue
    return sum(sizes) / 1e6


def judge(name: str, samples: list[Sample]) -> list[str]:
    """Print what was seen; returns what was not flat."""
    half = len(samples) // 3
    before, after = np.array(samples[:half]), np.array(samples[half:])
    (slope, _) = np.polyfit(after[:, 0] / 3600, after[:, 1], 1)
    print(f"{name}: {samples[-1].seconds / 60:.1f} minutes, {len(samples)} samples")
    print(f"  memory        {after[0, 1]:.0f} MB after the warm-up, {after[-1, 1]:.0f} at the end,")
    print(f"                at most {after[:, 1].max():.0f}; slope {slope:+.1f} MB an hour")
    found = [f"memory grows by {slope:.1f} MB an hour"] if slope > SLOPE else []
    for column, what in ((2, "open files"), (3, "threads")):
        most = before[:, column].max(), after[:, column].max()
        print(f"  {what:14}at most {most[0]:.0f} in the warm-up, {most[1]:.0f} after it")
        found += [f"more and more {what}"] if most[1] > most[0] + MORE else []
    if largest := after[:, 4].max():
        capacity = CAPACITY * FRAME / 1e6
        print(f"  replay        at most {largest:.1f} MB on disk, capacity {capacity:.1f} MB")
        found += ["the replay outgrows its capacity"] if largest > OVER * capacity else []
    return [f"{name}: {what}" for what in found]


def main() -> None:
    """Make what is trained on, then train and watch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="of both together")
    seconds = 60 * parser.parse_args().minutes
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)

    data = ["something", *config(scale="laptop", dataset="something")]
    cwm("collect", *data, "--out", "videos")
    cwm("decode", *data, "--videos", "videos/videos.jsonl", "--out", "clips/part-000")
    cwm("clips", *data, "--videos", "videos/videos.jsonl", "--out", "clips")
    watched = ["pretrain", *data, *config(model="contextwm"), "--clips", "clips/store.json"]
    cwm(*watched, "--out", "model", "--set", "pretrain.updates=50")
    endless = [*watched, "--out", "never", "--set", f"pretrain.updates={ENDLESS}"]
    seen = {"pre-training": watch("pre-training", 0.4 * seconds, *endless)}
    layers = config(suite="toy", scale="laptop", model="contextwm", variant="standard")
    learn = ["finetune", "toy/sphere", *layers, "--pretrained", "model/weights.json"]
    learn += ["--out", "never", "--set", f"finetune.steps={ENDLESS}"]
    learn += ["--set", f"finetune.replay.capacity={CAPACITY}"]
    seen["fine-tuning"] = watch("fine-tuning", 0.6 * seconds, *learn)
    found = [line for name, samples in seen.items() for line in judge(name, samples)]
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
