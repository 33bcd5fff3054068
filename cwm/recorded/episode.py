"""A recorded episode as an importer gives it, and the checks that all formats share.

Shapes: T frames, A values of an action.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cwm.infra.errors import UserError
from cwm.videos.ffmpeg import SIZE, Clip, DecodeError, Geometry
from cwm.videos.images import resize
from cwm.videos.store import Steps


class Recording(NamedTuple):
    """An episode of a source. Both functions raise DecodeError, the reason for rejecting it."""

    name: str
    identity: str  # sha256 of what the frames are read from
    bytes: int  # of that
    frames: Callable[[], Clip]
    steps: Callable[[], Steps]  # rows as recorded; `align` checks their number
    label: str | None = None


def align(steps: Steps, frames: int) -> Steps:
    """Give every frame a row: the action that led to it, and the reward received with it.

    T - 1 rows: row t is of the step from frame t to frame t + 1. T rows: row t is of the step that
    led to frame t, and row 0 must be zero. Raises DecodeError otherwise, and for NaN.
    """
    action = _align("action", steps.action, frames)
    return Steps(action, None if steps.reward is None else _align("reward", steps.reward, frames))


def _align(what: str, rows: np.ndarray, frames: int) -> np.ndarray:
    if len(rows) not in (frames - 1, frames):
        needed = f"{frames} frames need {frames - 1} or {frames} rows of {what}"
        raise DecodeError(f"{needed}, not {len(rows)}")
    bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(1)
    if bad.any():
        raise DecodeError(f"{what} is NaN or infinite in row {np.argmax(bad)}")
    if len(rows) < frames:
        return np.concatenate([np.zeros_like(rows, shape=(1, *rows.shape[1:])), rows])
    if np.any(rows[:1]):
        raise DecodeError(
            f"{what} has as many rows as frames ({frames}), and row 0, the step that led to the"
            f" first frame, is not zero; if row t follows frame t, store {frames - 1} rows"
        )
    return rows


def steps(action: Any, reward: Any) -> Steps:
    """Check the types and shapes of recorded arrays: action (N, A), reward (N,), (N, 1) or None."""
    action = _numbers("action", action)
    if action.ndim != 2 or not action.size:
        raise DecodeError(f"action has shape {action.shape}, not (steps, values)")
    if reward is None:
        return Steps(action, None)
    reward = _numbers("reward", reward)
    if reward.shape not in ((len(reward),), (len(reward), 1)):
        raise DecodeError(f"reward has shape {reward.shape}, not (steps,)")
    return Steps(action, reward.reshape(-1))


def _numbers(what: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise DecodeError(f"{what} is {array.dtype} {array.shape}, not a list of numbers")
    return array.astype(np.float32)


def shrink(what: str, image: Any, geometry: Geometry) -> Clip:
    """Frames uint8 (T, H, W, 3) at 64 x 64, resized as stills are (`cwm.videos.images`)."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] != 3 or not image.size:
        raise DecodeError(f"{what} is {image.dtype} {image.shape}, not uint8 (T, H, W, 3)")
    height, width = image.shape[1:3]
    if geometry.aspect == "center-crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[:, top : top + side, left : left + side]
    frames = np.empty((len(image), SIZE, SIZE, 3), np.uint8)
    for t, frame in enumerate(image):
        frames[t] = resize(frame)
    return Clip(frames, width, height)


def damaged(error: Exception) -> str:
    """Why a file cannot be read, from one of DAMAGED_ARRAYS."""
    reason = getattr(error, "strerror", None) or str(error).strip("'") or type(error).__name__
    return f"cannot be read: {' '.join(reason.split())}"


def choose_camera(source: Path, chosen: str | None, cameras: Sequence[str]) -> str:
    """The camera to import; UserError if there is none, or several and none is chosen."""
    if not cameras:
        raise UserError(f"{source} has no camera: no uint8 frames (T, H, W, 3), and no video")
    if chosen is None and len(cameras) > 1:
        raise UserError(f"{source} has the cameras {', '.join(cameras)}; choose one by --camera")
    if chosen is not None and chosen not in cameras:
        raise UserError(f"{source} has no camera {chosen!r}, only {', '.join(cameras)}")
    return chosen or cameras[0]
