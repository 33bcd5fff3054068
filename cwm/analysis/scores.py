"""Gather runs and baselines in one tidy table of episodes, and average it per evaluation.

The tidy table has one row per episode, with COLUMNS. `policy` is "agent" for a run. A baseline has
its name there (random, constant, untrained), and no model or step.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cwm.analysis.runs import common_scale, folder_of, read_csv
from cwm.analysis.style import POLICIES, Method, legend_order
from cwm.infra.errors import UserError, unknown
from cwm.infra.run_json import LABELS, read_run

TASK = ["suite", "task"]
METHOD = ["policy", "model", "dataset", "variant"]
NUMBERS = ["seed", "step", "episode", "return", "success", "length"]
COLUMNS = ["scale", *TASK, *METHOD, *NUMBERS, "split"]


def collect(runs: Sequence[Path], baselines: Sequence[Path], out: Path) -> None:
    """Write the tidy table of `runs` and `baselines` to `out`; errors as in `gather`."""
    tidy = gather(runs, baselines)
    out.parent.mkdir(parents=True, exist_ok=True)
    tidy.to_csv(out, index=False, float_format=_shortest)


def gather(runs: Sequence[Path], baselines: Sequence[Path]) -> pd.DataFrame:
    """The tidy table of `runs` and `baselines` (folders, or their scores.csv).

    UserError naming the file if one is missing, broken or has no evaluations, if a run is given
    twice, or if the scales differ.
    """
    if not runs:
        raise UserError("no runs to collect scores from")
    parts = [_read_run(folder_of(path)) for path in runs]
    parts += [_read_baseline(folder_of(path)) for path in baselines]
    seen: dict[tuple, Path] = {}
    for part, path in zip(parts, [*runs, *baselines], strict=True):
        for key in part[[*TASK, *METHOD, "seed"]].drop_duplicates().itertuples(index=False):
            if key in seen:
                raise UserError(f"{path} and {seen[key]} hold scores of the same run")
            seen[key] = path
    tidy = pd.concat(parts, ignore_index=True)[COLUMNS].astype({"seed": int})
    common_scale(tidy["scale"])
    return tidy


def load(path: Path) -> pd.DataFrame:
    """Read a table that `collect` wrote."""
    text = [name for name in COLUMNS if name not in NUMBERS]
    frame = read_csv(path, text, NUMBERS)
    _check_finite(frame, path, ["seed"])
    _check_evaluated(frame, path)
    return frame.astype({"seed": int})[COLUMNS]


def points(tidy: pd.DataFrame) -> pd.DataFrame:
    """Mean over the episodes of each evaluation, sorted by task, method, seed and step.

    Adds `measure`, "success" where every evaluation of the task reports it and "return" elsewhere,
    and `score`, its mean. A baseline's step is NaN.
    """
    tidy = tidy[tidy["split"] == "eval"]
    keys = [*TASK, *METHOD, "seed", "step"]
    means = tidy.groupby(keys, dropna=False)[["return", "success"]].mean().reset_index()
    known = tidy.groupby(TASK)["success"].agg(lambda column: column.notna().mean())
    if len(mixed := known[(known > 0) & (known < 1)]):
        raise UserError(f"only some episodes of {'/'.join(mixed.index[0])} report success")
    is_success = means["success"].notna()
    means["measure"] = np.where(is_success, "success", "return")
    means["score"] = np.where(is_success, means["success"], means["return"])
    return means.drop(columns=["return", "success"])


def by_method(points: pd.DataFrame) -> dict[Method, pd.DataFrame]:
    """The rows of each method, in legend order."""
    groups = {Method(*key): rows for key, rows in points.groupby(METHOD, sort=False)}
    return {method: groups[method] for method in legend_order(groups)}


def per_seed(rows: pd.DataFrame, y: str, reduce: Callable[[np.ndarray], float]) -> np.ndarray:
    """The evaluations of each run, in order, reduced to one number, (runs,)."""
    runs = rows.groupby([*METHOD, "seed"])[y]
    return np.array([reduce(run.to_numpy()) for _, run in runs])


def _read_run(folder: Path) -> pd.DataFrame:
    path = folder / "scores.csv"
    run = read_run(folder, "scale", *LABELS)
    frame = read_csv(path, ["split"], [name for name in NUMBERS if name != "seed"])
    _check_evaluated(frame, path)
    _check_finite(frame, path, ["step", "return"])
    names = {name: run.get(name) for name in ("scale", *LABELS)}
    return frame.assign(**names, policy="agent")


def _read_baseline(folder: Path) -> pd.DataFrame:
    path = folder / "scores.csv"
    run = read_run(folder, "scale", *TASK)
    frame = read_csv(path, ["policy"], [name for name in NUMBERS if name != "step"])
    _check_finite(frame, path, ["seed", "return"])
    if strangers := set(frame["policy"]) - POLICIES.keys():
        raise unknown(f"policy in {path}:", strangers.pop(), POLICIES)
    names = {name: run.get(name) for name in ("scale", *TASK)}
    absent = {"model": "", "dataset": "", "variant": "", "step": np.nan, "split": "eval"}
    return frame.assign(**names, **absent)


def _shortest(number: float) -> str:
    """Integers without a decimal point, other numbers with every digit."""
    return f"{number:.0f}" if number == round(number) else repr(float(number))


def _check_evaluated(frame: pd.DataFrame, path: Path) -> None:
    if not (frame["split"] == "eval").any():
        raise UserError(f"{path} has no evaluation (no row with split eval)")


def _check_finite(frame: pd.DataFrame, path: Path, names: list[str]) -> None:
    for name in names:
        if not np.isfinite(frame[name]).all():
            raise UserError(f"{path}, column {name}: empty or not finite in some rows")
