"""Clips that the viewer shows: those of a store, or synthetic ones rendered on demand."""

from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from cwm.infra.errors import UserError
from cwm.models import SIZE, Frames
from cwm.videos.store import ClipStore
from cwm.videos.synthetic import something


class Clips(Protocol):
    """A numbered list of clips that no model was trained on."""

    names: list[str]

    def frames(self, number: int) -> Frames:
        """The frames of a clip, uint8 (T, 64, 64, 3)."""


class StoreClips:
    """The held-out clips of a clip store that have at least `length` frames."""

    def __init__(self, path: Path, length: int) -> None:
        store = ClipStore.open(path)
        if not isinstance(store, ClipStore):
            raise UserError(f"{path} is a mixture; name the store of one of its members")
        self.store, self.length = store, length
        self.rows = store.eligible(length, "heldout")
        labels = store.index["label"][self.rows]
        self.names = [
            f"{i + 1}: {store.labels[label] if label >= 0 else 'clip'}"
            for i, label in enumerate(labels)
        ]

    def frames(self, number: int) -> Frames:
        """The first `length` frames of a clip."""
        return self.store.read(int(self.rows[number]), 0, self.length)


class SyntheticClips:
    """Clips of synthetic Something-Something with a seed that no dataset uses."""

    SEED, COUNT = 1_000_000, 40

    def __init__(self, length: int) -> None:
        self.length = length
        self.names = [f"{i + 1}: {something.label(i).replace('-', ' ')}" for i in range(self.COUNT)]
        self.frames = lru_cache(self.COUNT)(self._render)

    def _render(self, number: int) -> Frames:
        frames = list(something.render(self.SEED, number))
        start = (len(frames) - self.length) // 2
        shown = frames[start : start + self.length]
        small = [Image.fromarray(f).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for f in shown]
        return np.stack([np.asarray(frame) for frame in small])
