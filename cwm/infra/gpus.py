"""One place on one GPU for this process, by a file lock that dies with it.

Snakemake counts GPUs but hands out none, so all jobs of a box would take the first. Each card has
CWM_JOBS_PER_GPU places (config/config.yaml), a lock file each, in a folder that all users of the
machine share. SLURM and Kubernetes give every job its own card, and are believed.
"""

import fcntl
import logging
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from cwm.infra.errors import UserError

LOCKS = Path(os.environ.get("CWM_GPU_LOCKS", "/tmp/cwm-gpus"))
SCHEDULERS = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST")
QUERY = "--query-gpu=index,uuid,memory.used,memory.total"
SILENCE = 60.0  # seconds until the driver is taken to hang
POLL = 1.0  # seconds between looks for a free place


class Card(NamedTuple):
    """A GPU as the driver tells."""

    index: int  # in the order of nvidia-smi, which EGL's is taken to be
    uuid: str
    used: int  # MiB of its memory, now and by anybody
    total: int


_held: list[tuple[Card, int]] = []  # this process's card, and the descriptor that keeps it


def cards() -> list[Card]:
    """The GPUs that this process may see; none without a driver.

    A number in CUDA_VISIBLE_DEVICES is that of nvidia-smi, which counts in PCI bus order.
    Raises UserError where there is a driver that does not answer.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    found = [Card(int(row[0]), row[1], _number(row[2]), _number(row[3])) for row in _ask(QUERY)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    names = [name.strip() for name in visible.split(",")]
    return [c for c in found if any(_means(name, c) for name in names)]


def driver() -> str:
    """The version of the driver, where there are cards."""
    return _ask("--query-gpu=driver_version")[0][0]


def _ask(query: str) -> list[list[str]]:
    """The rows of nvidia-smi's answer."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SILENCE)
    except subprocess.TimeoutExpired:
        raise _dead(f"nvidia-smi was silent for {SILENCE:g} s") from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise _dead(said[0] if said else "nvidia-smi failed")
    return [line.split(", ") for line in done.stdout.splitlines() if line.strip()]


def _dead(why: str) -> UserError:
    return UserError(
        f"the NVIDIA driver does not answer: {why}; mend it, or set runtime.device=cpu"
    )


def _means(name: str, card: Card) -> bool:
    """Whether a word of CUDA_VISIBLE_DEVICES, an index or the beginning of a UUID, is this card."""
    return name == str(card.index) or (name.startswith("GPU-") and card.uuid.startswith(name))


def _number(used: str) -> int:
    return int(used) if used.isdigit() else 0  # some cards do not say


def claim() -> Card | None:
    """Take a place on a GPU until this process ends, waiting for one if need be.

    Makes the card the only one that CUDA sees and the one that MuJoCo draws on. None where there
    is no GPU, or where a scheduler has given one. Must come before CUDA is used.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # number GPUs as nvidia-smi does
    if _held:
        return _held[0][0]
    if any(name in os.environ for name in SCHEDULERS):
        return None
    found, waiting = cards(), False
    while found:
        for card, place in _order(found):
            if _lock(card, place):
                os.environ["CUDA_VISIBLE_DEVICES"] = card.uuid
                os.environ.setdefault("MUJOCO_EGL_DEVICE_ID", str(card.index))
                if 2 * card.used > card.total:
                    memory = f"{card.used} of {card.total} MiB"
                    logging.warning("GPU %d: %s are in use already", card.index, memory)
                return card
        if not waiting:
            waiting = True
            places = len(found) * jobs_per_gpu()
            logging.info(
                "all %d places on the %d GPUs are taken: waiting (jobs_per_gpu in"
                " config/config.yaml allows more on a card)",
                places,
                len(found),
            )
        time.sleep(POLL)
    return None


def jobs_per_gpu() -> int:
    """How many processes may share a card."""
    said = os.environ.get("CWM_JOBS_PER_GPU", "1")
    if not said.isdigit() or int(said) < 1:
        raise UserError(f"CWM_JOBS_PER_GPU (jobs_per_gpu) is {said!r}; it must be 1 or more")
    return int(said)


def _order(found: list[Card]) -> list[tuple[Card, int]]:
    """First places before second ones, and cards with the most free memory before others."""
    emptier = sorted(found, key=lambda card: (card.used, card.index))
    return [(card, place) for place in range(jobs_per_gpu()) for card in emptier]


def _lock(card: Card, place: int) -> bool:
    """Take a lock that the system frees when this process ends, however it ends."""
    _make_folder()
    path = LOCKS / f"{card.uuid}.{place}"
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        descriptor = os.open(path, flags)  # perhaps another user's: reading is enough to lock
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _held.append((card, descriptor))
    return True


def _make_folder() -> None:
    if not LOCKS.is_dir():
        LOCKS.mkdir(parents=True, exist_ok=True)
        LOCKS.chmod(stat.S_ISVTX | 0o777)
