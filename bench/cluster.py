"""Simulate decoding a dataset on many machines: python bench/cluster.py --machines 100

A discrete-event simulation. Jobs are submitted at a limited rate and wait for a core. A job reads
its videos, decodes, and writes its frames. Transfers share the bandwidth of the storage equally,
and each has a limit of its own. A straggler decodes more slowly by a factor. When a machine fails,
its job starts again. Costs of a clip are measured (docs/scale.md); other numbers are assumptions.
"""

import argparse
import heapq
import sys
from collections import deque
from itertools import count, product
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.record import Record

CLIP_SECONDS = 0.4  # core-seconds to decode a clip of Something-Something, measured
CLIP_READ = 2 * 20e9 / 220_847  # bytes: the videos of Something-Something, to hash and to decode
CLIP_WRITTEN = 45 * 12288  # bytes of frames, uncompressed
LINK = 1e9  # bytes/s of one transfer at most


class Job(NamedTuple):
    """One part: bytes to read, seconds to decode, bytes to write."""

    read: float
    seconds: float
    write: float


class Cluster(NamedTuple):
    """What jobs share."""

    cores: int
    bandwidth: float  # bytes/s of the storage, for all transfers together
    link: float  # bytes/s of one transfer at most
    submitted: float  # jobs/s that the scheduler submits


class Outcome(NamedTuple):
    """Times in seconds."""

    finished: np.ndarray  # (jobs,) when each ended
    busy: float  # core-seconds of decoding / (cores x time)
    moving: float  # share of the time with a transfer


class Storage:
    """Transfers that share a bandwidth equally, by the bytes that each of them has received."""

    def __init__(self, bandwidth: float, link: float) -> None:
        self.bandwidth, self.link = bandwidth, link
        self.each = self.now = self.moving = 0.0  # bytes per transfer so far, time, time in use
        self.active: list[tuple[float, int]] = []  # (`each` at its end, job)

    def advance(self, now: float) -> None:
        if self.active:
            self.each += (now - self.now) * self.rate
            self.moving += now - self.now
        self.now = now

    @property
    def rate(self) -> float:
        return min(self.link, self.bandwidth / len(self.active))

    def start(self, job: int, size: float) -> None:
        heapq.heappush(self.active, (self.each + size, job))

    def next_end(self) -> float:
        if not self.active:
            return np.inf
        return self.now + max(0.0, self.active[0][0] - self.each) / self.rate


def simulate(jobs: list[Job], cluster: Cluster) -> Outcome:
    """Run jobs in their order."""
    storage = Storage(cluster.bandwidth, cluster.link)
    order, events = count(), []  # (time, order, what, job)
    for job in range(len(jobs)):
        heapq.heappush(events, (job / cluster.submitted, next(order), "submit", job))
    waiting: deque[int] = deque()
    free, now, busy = cluster.cores, 0.0, 0.0
    decoded = [False] * len(jobs)
    finished = np.full(len(jobs), np.nan)
    while events or storage.active:
        transfer = storage.next_end()
        if not events or transfer <= events[0][0]:
            storage.advance(now := transfer)
            job = heapq.heappop(storage.active)[1]
            if decoded[job]:
                finished[job], free = now, free + 1
            else:
                heapq.heappush(events, (now + jobs[job].seconds, next(order), "decoded", job))
        else:
            now, _, what, job = heapq.heappop(events)
            storage.advance(now)
            if what == "submit":
                waiting.append(job)
            else:
                decoded[job], busy = True, busy + jobs[job].seconds
                storage.start(job, jobs[job].write)
        while free and waiting:
            free -= 1
            storage.start(job := waiting.popleft(), jobs[job].read)
    return Outcome(finished, busy / (cluster.cores * now), storage.moving / now)


def parts(
    clips: int, number: int, compression: float, slow: float, factor: float, failures: float
) -> list[Job]:
    """Jobs of a dataset. slow: share of stragglers. failures: share of jobs that start again."""
    rng = np.random.default_rng(0)
    of_part = rng.multinomial(clips, np.full(number, 1 / number))
    seconds = of_part * CLIP_SECONDS * np.where(rng.random(number) < slow, factor, 1.0)
    seconds *= 1 + (rng.random(number) < failures) * rng.random(number)  # the part done is lost
    sizes = zip(of_part * CLIP_READ, seconds, of_part * CLIP_WRITTEN / compression, strict=True)
    return [Job(*map(float, facts)) for facts in sizes]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=float, default=1e7)
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--cores", type=int, default=16, help="of a machine")
    parser.add_argument("--parts", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument(
        "--gigabytes", type=float, nargs="+", default=[1, 10], help="of storage, /s"
    )
    parser.add_argument("--compression", type=float, nargs="+", default=[1, 20])
    parser.add_argument("--submitted", type=float, default=10, help="jobs/s")
    parser.add_argument("--slow", type=float, default=0.01, help="share of stragglers")
    parser.add_argument("--factor", type=float, default=5, help="by which they are slower")
    parser.add_argument("--failures", type=float, default=0.01, help="share of jobs")
    options = parser.parse_args(arguments)
    record = Record("cluster", **vars(options))
    axes = options.machines, options.parts, options.gigabytes, options.compression
    for machines, number, gigabytes, compression in product(*axes):
        troubles = options.slow, options.factor, options.failures
        jobs = parts(int(options.clips), number, compression, *troubles)
        cores = machines * options.cores
        outcome = simulate(jobs, Cluster(cores, gigabytes * 1e9, LINK, options.submitted))
        hours = np.sort(outcome.finished) / 3600
        what = f"{machines} machines, {number} parts, {gigabytes:g} GB/s, frames / {compression:g}"
        record.add(f"{what}/all parts", hours[-1], "h")
        record.add(f"{what}/first tenth", hours[number // 10 - 1], "h")
        record.add(f"{what}/cores decode", 100 * outcome.busy, "%")
    record.save()


if __name__ == "__main__":
    main()
