"""Pre-train models in float64 with 1, 2 and 4 processes: float64_runs.py CLIPS OUT

A fresh process that imports torch once and forks all of them, which saves half a minute.
"""

import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from squares import settings

from cwm.commands.run_spec import open_run
from cwm.nn import checkpointing
from cwm.train.pretrain import pretrain

MODELS = {
    "contextwm": [  # settings whose result depends on the whole batch
        "pretrain.updates=20",
        "model.context.dropout=0.1",
        "pretrain.world.kl.free=1",
    ],
    "plain": ["pretrain.updates=10"],
    "contextwm-concatenation": ["pretrain.updates=10"],
}
RUNS = [("contextwm", 4), *((model, n) for model in MODELS for n in (1, 2))]
COMMON = ["pretrain.length=4", "pretrain.optimizer.lr=1e-3"]


def train(rank: int, processes: int, port: int, model: str, clips: Path, folder: Path) -> None:
    """Run one process of a run of `processes`; the results are in `folder`."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), **address}
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    files, sets, inputs = settings(model), [*COMMON, *MODELS[model]], {"clips": clips}
    with open_run("pretrain", "squares", files, sets, folder, inputs) as (cfg, run):
        pretrain(cfg.runtime, cfg.model, cfg.pretrain, clips, run)


def main() -> None:
    """Run them one after another."""
    clips, out = map(Path, sys.argv[1:])
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    checkpointing.LARGE = 0  # recompute batch norms in the backward pass
    fork = multiprocessing.get_context("fork")
    for model, processes in RUNS:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        run = processes, port, model, clips, out / model / str(processes)
        ranks = [fork.Process(target=train, args=(rank, *run)) for rank in range(processes)]
        for each in ranks:
            each.start()
        for each in ranks:
            each.join()
        assert not any(each.exitcode for each in ranks), run


if __name__ == "__main__":
    main()
