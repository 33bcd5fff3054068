"""A contact sheet: what the clips of a dataset look like, at a glance."""

from pathlib import Path

import numpy as np

from cwm.videos.ffmpeg import SIZE
from cwm.videos.store import ClipStore, Mixture

ROWS, COLUMNS = 6, 10


def contact_sheet(store: ClipStore | Mixture) -> np.ndarray:
    """Middle frames of up to 60 training clips, drawn at random: uint8 (H, W, 3)."""
    sheet = np.full((ROWS, SIZE, COLUMNS, SIZE, 3), 255, np.uint8)
    members = store.members if isinstance(store, Mixture) else [store]
    each = ROWS * COLUMNS // len(members)
    frames = [frame for member in members for frame in _middles(member, each)]
    for i, frame in enumerate(frames):
        sheet[i // COLUMNS, :, i % COLUMNS] = frame
    rows = -(-len(frames) // COLUMNS)
    return sheet[:rows].reshape(rows * SIZE, COLUMNS * SIZE, 3)


def _middles(store: ClipStore, n: int) -> np.ndarray:
    clips = np.random.default_rng(0).permutation(store.eligible(1, "train"))[:n]
    return store.windows_of(clips, store.index["length"][clips] // 2, 1)[:, 0]


def write_contact_sheet(store: ClipStore | Mixture, path: Path) -> None:
    """The same as a picture."""
    from PIL import Image

    Image.fromarray(contact_sheet(store)).save(path)
