"""A run folder seen from outside: who it is, and the files it left."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ConfigDict, NonNegativeInt
from typing_extensions import TypedDict

from cwm.infra.errors import DAMAGED_ARRAYS, UserError
from cwm.infra.json_file import read


def folder_of(path: Path) -> Path:
    """The run folder that is meant by itself or by a file in it; UserError if there is none."""
    if not path.exists():
        raise UserError(f"no file or folder {path}")
    return path if path.is_dir() else path.parent


class Identity(TypedDict, total=False):
    """A run.json; which of these a run has depends on its stage."""

    __pydantic_config__ = ConfigDict(extra="allow")
    stage: str
    scale: str
    suite: str
    task: str
    model: str
    dataset: str
    variant: str
    seed: NonNegativeInt
    key: str
    commit: str | None
    versions: dict[str, str]


def read_identity(folder: Path, *keys: str) -> Identity:
    """The run's run.json; UserError if one of `keys` is not in it."""
    run = read(folder / "run.json", Identity)
    if missing := [key for key in keys if run.get(key) is None]:
        raise UserError(f"{folder / 'run.json'} lacks {', '.join(missing)}")
    return run


def read_csv(path: Path, text: list[str], numbers: list[str]) -> pd.DataFrame:
    """A CSV with exactly these columns as text and as float64, an empty number as NaN.

    UserError naming the file if it is missing, empty, lacks a column or has a word for a number.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # pandas' parser errors and a wrong encoding are ValueErrors
        raise UserError(f"{path} is not a CSV table: {error}") from error
    if missing := [name for name in [*text, *numbers] if name not in frame.columns]:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}")
    if frame.empty:
        raise UserError(f"{path} has a heading but no rows")
    for name in numbers:
        try:
            frame[name] = frame[name].replace("", "nan").astype(float)
        except ValueError as error:
            raise UserError(f"{path}, column {name}: {error}") from error
    return frame[[*text, *numbers]]


def read_metrics(folder: Path, names: list[str]) -> pd.DataFrame:
    """The run's metrics.jsonl, one row per line.

    A name that a line lacks is NaN there; a value that is not finite, as of a training that
    diverged, is infinite.

    UserError naming the file if it is missing, broken, or has no line with one of `names`.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line, parse_constant=lambda _: math.inf) for line in lines]
        frame = pd.DataFrame(rows).astype(float)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not lines of JSON with numbers: {error}") from error
    if missing := [name for name in ["step", *names] if name not in frame]:
        raise UserError(f"{path} has no line with {', '.join(missing)}")
    return frame


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of a .npz; UserError naming the file if it is broken or lacks one of `names`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = dict(arrays)
    except DAMAGED_ARRAYS as error:
        raise UserError(f"{path} is not a file of arrays: {error}") from error
    if missing := set(names) - content.keys():
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}")
    return content
