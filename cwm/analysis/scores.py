"""Many runs and baselines to one tidy table of episodes, and that table to one score per seed.

The tidy table has one row per episode, COLUMNS wide. `policy` is "agent" for a run; a baseline
(random, constant, untrained) has its own name there, no model and no step.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cwm.analysis.runs import folder_of, read_csv, read_identity
from cwm.analysis.style import POLICIES
from cwm.infra.errors import UserError, unknown

TASK = ["suite", "task"]
METHOD = ["policy", "model", "dataset", "variant"]
NUMBERS = ["seed", "step", "episode", "return", "success", "length"]
COLUMNS = ["scale", *TASK, *METHOD, *NUMBERS, "split"]


def collect(runs: Sequence[Path], baselines: Sequence[Path], out: Path) -> None:
    """Write the tidy table of `runs` and `baselines` to `out`; refuses what `gather` does."""
    tidy = gather(runs, baselines)
    out.parent.mkdir(parents=True, exist_ok=True)
    tidy.to_csv(out, index=False, float_format=_shortest)


def gather(runs: Sequence[Path], baselines: Sequence[Path]) -> pd.DataFrame:
    """The tidy table of `runs` and `baselines` (folders, or their scores.csv).

    Raises UserError naming the file where one is missing, broken or without evaluations, where a
    run is given twice, and where runs of several scales are mixed.
    """
    if not runs:
        raise UserError("no runs to collect scores from")
    parts = [_read_run(folder_of(path)) for path in runs]
    parts += [_read_baseline(folder_of(path)) for path in baselines]
    seen: dict[tuple, Path] = {}
    for part, path in zip(parts, [*runs, *baselines], strict=True):
        for key in part[[*TASK, *METHOD, "seed"]].drop_duplicates().itertuples(index=False):
            if key in seen:
                raise UserError(f"{path} and {seen[key]} hold scores of one and the same run")
            seen[key] = path
    tidy = pd.concat(parts, ignore_index=True)[COLUMNS].astype({"seed": int})
    if len(scales := tidy["scale"].unique()) > 1:
        raise UserError(f"a table holds one scale, but these runs are of {', '.join(scales)}")
    return tidy


def load(path: Path) -> pd.DataFrame:
    """A table that `collect` wrote."""
    text = [name for name in COLUMNS if name not in NUMBERS]
    frame = read_csv(path, text, NUMBERS)
    _refuse_gaps(frame, path, ["seed"])
    if not (frame["split"] == "eval").any():
        raise UserError(f"{path} has no evaluation (no row with split eval)")
    return frame.astype({"seed": int})[COLUMNS]


def points(tidy: pd.DataFrame) -> pd.DataFrame:
    """Mean over the episodes of each evaluation, sorted by task, method, seed and step.

    Beside TASK, METHOD, seed and step (NaN for a baseline): `measure`, which is "success" where
    every evaluation of the task reports it and "return" elsewhere, and `score`, its mean.
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


def _read_run(folder: Path) -> pd.DataFrame:
    """A fine-tuning run's scores with its identity in front."""
    path = folder / "scores.csv"
    keys = ("scale", *TASK, "model", "dataset", "variant")
    run = read_identity(folder, *keys, "seed")
    numbers = [name for name in NUMBERS if name != "seed"]
    frame = read_csv(path, ["split"], numbers)
    if not (frame["split"] == "eval").any():
        raise UserError(f"{path} has no evaluation (no row with split eval)")
    _refuse_gaps(frame, path, ["step", "return"])
    return frame.assign(**{key: str(run[key]) for key in keys}, policy="agent", seed=run["seed"])


def _read_baseline(folder: Path) -> pd.DataFrame:
    """A task's baseline scores in the same columns."""
    path = folder / "scores.csv"
    run = read_identity(folder, "scale", *TASK)
    numbers = [name for name in NUMBERS if name != "step"]
    frame = read_csv(path, ["policy"], numbers)
    _refuse_gaps(frame, path, ["seed", "return"])
    if strangers := set(frame["policy"]) - POLICIES.keys():
        raise unknown(f"policy in {path}:", strangers.pop(), POLICIES)
    nobody = {"model": "", "dataset": "", "variant": "", "step": np.nan, "split": "eval"}
    return frame.assign(**{key: str(run[key]) for key in ("scale", *TASK)}, **nobody)


def _shortest(number: float) -> str:
    """Counts without a point, and of other numbers every digit."""
    return f"{number:.0f}" if number == round(number) else repr(float(number))


def _refuse_gaps(frame: pd.DataFrame, path: Path, names: list[str]) -> None:
    for name in names:
        if not np.isfinite(frame[name]).all():
            raise UserError(f"{path}, column {name}: empty or not finite in some rows")
