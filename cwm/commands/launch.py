"""Start the processes of a distributed pre-training.

torchrun starts those of one machine. Several machines run the same command each, and meet at the
address in CWM_RENDEZVOUS; in a SLURM job `srun` starts it on each of them.
"""

import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cwm.config import load
from cwm.infra.errors import LostRankError, UserError
from cwm.nn.whole_batch import check_share

RENDEZVOUS = "CWM_RENDEZVOUS"  # HOST:PORT; HOST is one of the machines
# Exit statuses of processes that ended because another one did.
SECONDARY = (LostRankError.status, -signal.SIGTERM, 128 + signal.SIGTERM)

LINGER = 5  # seconds in which the other machines notice what failed on them


def launched(configs: Sequence[Path], sets: Sequence[str] | None) -> bool:
    """Run the command of this process in as many processes as the settings say.

    Returns False if this is one of them, or if there is only one: it must train itself. Raises
    UserError with the reason if one of them fails.
    """
    cfg = load(configs, sets).pretrain
    if "RANK" in os.environ or cfg.devices * cfg.nodes == 1:
        return False
    check_share(cfg.batch, cfg.devices * cfg.nodes)
    command = [sys.executable, *sys.orig_argv[1:]]
    if cfg.nodes > 1 and RENDEZVOUS not in os.environ:
        _become_srun(cfg.nodes, command)
    _torchrun(cfg.devices, cfg.nodes, command)
    return True


def _become_srun(nodes: int, command: list[str]) -> None:
    """Replace this process by `srun`, which runs the command on each node of this SLURM job."""
    if "SLURM_JOB_ID" not in os.environ or shutil.which("srun") is None:
        raise UserError(
            f"pretrain.nodes is {nodes}: run the command in a SLURM job of {nodes} nodes, or on"
            f" each machine with {RENDEZVOUS}=HOST:PORT in the environment, the same on all"
        )
    with socket.socket() as probe:
        probe.bind(("", 0))
        os.environ[RENDEZVOUS] = f"{socket.gethostname()}:{probe.getsockname()[1]}"
    options = [f"--nodes={nodes}", f"--ntasks={nodes}", "--whole"]
    options += ["--cpu-bind=none", "--kill-on-bad-exit=1", "--quiet"]
    os.execvp("srun", ["srun", *options, *command])


def _torchrun(devices: int, nodes: int, command: list[str]) -> None:
    logging.disable()  # torchrun's: one line is enough
    endpoint = os.environ.get(RENDEZVOUS, "localhost:0")
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=devices,
        run_id=os.environ.get("SLURM_JOB_ID", "cwm"),
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        max_restarts=0,
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except SignalException as stopped:
        print("cwm: stopped; the same command resumes", file=sys.stderr)
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as error:
        if nodes > 1:
            time.sleep(LINGER)  # `error` keeps the meeting point, which this process may host
        raise UserError(_first(error)) from None
    except (RendezvousError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(
            f"{nodes} machines could not meet at {endpoint}, or one ended: {problem}"
        ) from error


def _first(error: ChildFailedError) -> str:
    """The reason of the first failure that does not follow from another one."""

    def order(rank: int) -> tuple[bool, int, int]:
        failure = error.failures[rank]
        return failure.exitcode in SECONDARY, failure.timestamp, rank

    rank = min(error.failures, key=order)
    failure = error.failures[rank]
    if failure.exitcode in (UserError.status, LostRankError.status):
        return failure.message
    killed = f"was killed ({failure.signal_name()})"
    end = killed if failure.exitcode < 0 else f"ended with status {failure.exitcode}"
    return f"process {rank} {end}; the same command resumes"
