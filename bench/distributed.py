"""Pre-training with one and two processes at an equal batch: python bench/distributed.py laptop

Runs alternate. Each prints the median time of an update, and the processor time of all its
processes per update, which other jobs on the machine change less.
"""

import argparse
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.inputs import CONFIG, clip_store
from bench.record import Record
from cwm import config
from cwm.infra import ranks
from cwm.infra.device import reseed, set_up
from cwm.nn import whole_batch
from cwm.nn.optim import Optimizer
from cwm.train.prefetch import prefetch
from cwm.train.pretrain import learner
from cwm.videos.store import ClipStore
from cwm.world.action_free import ActionFreeModel

WARM_UP = 2


def train(
    rank: int, processes: int, port: int, cfg: config.Config, store: Path, updates: int
) -> tuple[list[float], float]:
    """Do updates as one of several processes; seconds of each, and processor seconds of all."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), **address}
    device = set_up(cfg.runtime)
    ranks.join(device, {})
    reseed(0)
    world = ActionFreeModel(cfg.model, cfg.pretrain.world).to(device).train()
    whole_batch.synchronise_norms(world)
    learn = learner(
        world, Optimizer(cfg.pretrain.optimizer, world.parameters()), cfg.runtime, device
    )
    sizes = cfg.pretrain.batch, cfg.pretrain.length
    images = prefetch(ClipStore.open(store), 0, 0, *sizes, device, whole_batch.share(sizes[0]))
    taken = []
    for i in range(WARM_UP + updates):
        if i == WARM_UP:
            before = processor_seconds()
        start = time.perf_counter()
        learn(next(images)[1])
        taken.append(time.perf_counter() - start)
    ranks.leave()
    return taken[WARM_UP:], processor_seconds() - before


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(processes: int, *about: object) -> tuple[float, float]:
    """Median seconds of an update, and processor seconds of an update in all processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with get_context("spawn").Pool(processes) as pool:
        work = [(rank, processes, port, *about) for rank in range(processes)]
        results = pool.starmap(train, work, chunksize=1)
    updates = len(results[0][0])
    return statistics.median(results[0][0]), sum(used for _, used in results) / updates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scale")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sets", nargs="*", default=[], help="settings, as for `cwm --set`")
    options = parser.parse_args()
    files = [CONFIG / "scale" / f"{options.scale}.yaml", CONFIG / "model/contextwm.yaml"]
    cfg = config.load(files, options.sets)
    record = Record("distributed", **vars(options), load=os.getloadavg()[0])
    print(f"load average {os.getloadavg()[0]:.1f} on {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as name:
        clip_store(Path(name), 32, 2 * cfg.pretrain.length)
        for number in range(options.rounds):
            found = {n: measure(n, cfg, Path(name, "store.json"), options.updates) for n in (1, 2)}
            for n, (wall, used) in found.items():
                record.add(f"round {number}/{n} processes/update", 1e3 * wall, "ms")
                record.add(f"round {number}/{n} processes/processor", 1e3 * used, "ms")
            record.add(f"round {number}/speed-up", found[1][0] / found[2][0], "times")
    record.save()


if __name__ == "__main__":
    main()
