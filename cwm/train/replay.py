"""Replay buffer: whole episodes in a ring of frames, and on disk so that a run can resume.

Reference: `core/replay.py`. Shapes: B batch, L length, n steps of an episode, A action.
"""

import hashlib
from collections import deque
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cwm.infra.errors import DAMAGED_ARRAYS, UserError
from cwm.infra.files import write_bytes
from cwm.nn.batch import Batch
from cwm.settings import ReplayConfig


class Episode(NamedTuple):
    """An episode of n steps has n + 1 entries; the first action and reward are zero."""

    image: np.ndarray  # (n+1, 64, 64, 3) uint8
    action: np.ndarray  # (n+1, A) float32; action[t] led to image[t]
    reward: np.ndarray  # (n+1,) float32


class _Ring(NamedTuple):
    """The frames of all stored episodes, on the training device; an episode may wrap around."""

    image: torch.Tensor  # (size, 64, 64, 3) uint8
    action: torch.Tensor  # (size, A)
    reward: torch.Tensor  # (size,)


def _parse(content: bytes) -> Episode:
    """Read an episode from the content of its file; raises one of DAMAGED_ARRAYS."""
    with np.load(BytesIO(content)) as arrays:
        episode = Episode(**arrays)
    entries, size = episode.action.shape
    kinds = [(x.dtype, x.shape) for x in episode]
    shapes = [(entries, 64, 64, 3), (entries, size), (entries,)]
    if kinds != list(zip((np.uint8, np.float32, np.float32), shapes, strict=True)):
        raise ValueError(f"it has arrays {', '.join(f'{kind} {shape}' for kind, shape in kinds)}")
    return episode


class Replay:
    """Episodes in a ring on the training device; each is also a file in `folder`."""

    def __init__(
        self, cfg: ReplayConfig, folder: Path, length: int, size: int, device: str = "cpu"
    ) -> None:
        """Sample windows of `length` steps; hold `size` frames or the capacity if that is less."""
        self.cfg = cfg
        self.folder = folder
        self.length = length
        self.device = device
        self.size = min(cfg.capacity, size)
        self.episodes: deque[tuple[int, int, int]] = deque()  # (number, first frame, entries)
        self.remembered: dict[int, str] = {}  # stored: number -> sha256 of the file, oldest first
        self.count = 0  # episodes added, including those not kept
        self.used = 0  # frames stored
        self.end = 0  # position in the ring where the next episode begins
        self.ring: _Ring | None = None  # allocated for the first episode
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, episode: Episode) -> bool:
        """Store an episode, on disk first; False if it has fewer steps than a window."""
        if len(episode.reward) <= self.length:
            self.count += 1
            return False
        file = BytesIO()
        np.savez(file, **episode._asdict())
        content = file.getvalue()
        path = self._path(self.count)
        write_bytes(path, content)
        self._remember(self.count, episode, hashlib.sha256(content).hexdigest())
        self.count += 1
        return True

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:07d}.npz"

    def _remember(self, number: int, episode: Episode, sha256: str) -> None:
        entries = len(episode.reward)
        if entries > self.size:
            raise UserError(f"replay.capacity {self.size} is less than an episode of {entries}")
        if self.ring is None:
            self.ring = self._allocate(episode.action.shape[1])
        while self.used + entries > self.size:
            oldest, _, freed = self.episodes.popleft()
            del self.remembered[oldest]
            self.used -= freed
        index = torch.arange(self.end, self.end + entries, device=self.device) % self.size
        for stored, new in zip(self.ring, episode, strict=True):
            stored[index] = torch.as_tensor(new, device=self.device)
        self.episodes.append((number, self.end, entries))
        self.remembered[number] = sha256
        self.end = (self.end + entries) % self.size
        self.used += entries

    def _allocate(self, action_dim: int) -> _Ring:
        image = torch.zeros(self.size, 64, 64, 3, dtype=torch.uint8, device=self.device)
        action = torch.zeros(self.size, action_dim, device=self.device)
        return _Ring(image, action, torch.zeros(self.size, device=self.device))

    def prune(self) -> None:
        """Delete the files of dropped episodes, once a checkpoint no longer needs them."""
        kept = {self._path(number) for number in self.remembered}
        for path in self.folder.iterdir():
            if path not in kept:
                path.unlink()

    def restore(self, count: int, remembered: dict[int | str, str]) -> None:
        """Load the stored episodes of a checkpoint, after `count` episodes were added.

        Raises UserError if a file is missing, damaged or of another run.
        """
        for number, sha256 in remembered.items():
            self._remember(int(number), self._read(int(number), sha256), sha256)
        self.count = count
        self.prune()

    def _read(self, number: int, sha256: str) -> Episode:
        """Read a stored episode and verify its checksum."""
        path = self._path(number)
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ValueError("its checksum is wrong")
            episode = _parse(content)
            entries, size = episode.action.shape
            if entries <= self.length:
                raise ValueError(
                    f"it has {entries} entries, too few for a window of {self.length} steps"
                )
            if self.ring is not None and size != (known := self.ring.action.shape[1]):
                raise ValueError(f"its actions have {size} dimensions, not {known}")
        except DAMAGED_ARRAYS as error:
            raise UserError(
                f"cannot read {path}, which the checkpoint needs: {error}; restore it from a copy,"
                f" or delete {self.folder.parent} to restart this run"
            ) from error
        return episode

    def sample(self, seed: int, i: int, batch: int) -> Batch:
        """Sample batch i: a pure function of the seed, i and the stored episodes.

        Episodes are drawn uniformly, regardless of their length. With `prioritize_ends`, starts are
        drawn from a longer range and clipped to the last valid one. `is_first` is 1 at the start of
        every row.
        """
        if self.ring is None or not self.episodes:
            raise UserError(
                f"no episode has the {self.length} steps of a training window; lower"
                " finetune.length or raise env.time_limit"
            )
        rng = np.random.default_rng([seed, 0x5EED, i])
        table = np.array(self.episodes)[rng.integers(len(self.episodes), size=batch)]
        last = table[:, 2] - self.length
        extra = self.length if self.cfg.prioritize_ends else 0
        start = np.minimum(rng.integers(last + 1 + extra), last)
        steps = (table[:, 1] + start)[:, None] + np.arange(self.length)
        index = torch.as_tensor(steps % self.size)
        if self.device != "cpu":  # a blocking copy would wait for the running update
            index = index.pin_memory().to(self.device, non_blocking=True)
        is_first = torch.zeros(batch, self.length, device=self.device)
        is_first[:, 0] = 1
        image, action, reward = (x[index] for x in self.ring)
        return Batch(image, is_first, action, reward)
