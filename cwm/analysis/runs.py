"""Read finished run folders: CSV tables, metrics and arrays."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from cwm.analysis.style import Method, legend_order
from cwm.infra.errors import DAMAGED_ARRAYS, UserError
from cwm.infra.run_json import read_run


def folder_of(path: Path) -> Path:
    """The run folder, given itself or a file in it; UserError if the path does not exist."""
    if not path.exists():
        raise UserError(f"no file or folder {path}")
    return path if path.is_dir() else path.parent


def common_scale(scales: Iterable[str]) -> str:
    """The scale that all runs share; UserError if there is more than one."""
    found = list(dict.fromkeys(scales))
    if len(found) > 1:
        raise UserError(f"runs of different scales cannot be mixed: {', '.join(found)}")
    return found[0]


def runs_by_seed(paths: Iterable[Path]) -> dict[Method, dict[int, Path]]:
    """Folders of pre-trained models by method, in legend order, and by seed.

    UserError if there are none, or two of the same model, dataset and seed.
    """
    found: dict[Method, dict[int, Path]] = {}
    for folder in map(folder_of, paths):
        run = read_run(folder, "dataset", "model", "seed")
        method = Method("agent", run["model"], run["dataset"], "standard")
        other = found.setdefault(method, {}).setdefault(run["seed"], folder)
        if other != folder:
            raise UserError(f"{folder} and {other} are both {method.label}, seed {run['seed']}")
    if not found:
        raise UserError("no runs to draw")
    return {method: dict(sorted(found[method].items())) for method in legend_order(found)}


def single_runs(paths: Iterable[Path]) -> dict[Method, Path]:
    """Like `runs_by_seed`, for a figure that shows one seed of each method."""
    found = runs_by_seed(paths)
    for method, seeds in found.items():
        if len(seeds) > 1:
            raise UserError(f"{len(seeds)} seeds of {method.label}; this figure shows one")
    return {method: next(iter(seeds.values())) for method, seeds in found.items()}


def read_csv(path: Path, text: list[str], numbers: list[str]) -> pd.DataFrame:
    """These columns of a CSV, as text and as float64 (NaN where empty).

    UserError naming the file if it is missing, empty, lacks a column or has text for a number.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # includes pandas' parser errors and wrong encodings
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

    A metric that a line lacks is NaN; a logged NaN or infinity (divergence) is infinite.
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
        raise UserError(f"{path} is not JSON lines of numbers: {error}") from error
    if missing := [name for name in ["step", *names] if name not in frame]:
        raise UserError(f"{path} has no line with {', '.join(missing)}")
    return frame


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of a .npz; UserError naming the file if it is broken or lacks one of `names`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = dict(arrays)
    except DAMAGED_ARRAYS as error:
        raise UserError(f"{path} is not a valid .npz file: {error}") from error
    if missing := set(names) - content.keys():
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}")
    return content
