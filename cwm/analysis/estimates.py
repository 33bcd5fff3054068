"""Estimates with intervals: learning curves, final scores by domain, prediction errors.

The first two take `scores.points` with the column `scaled` of `normalise.add_scaled`. On a task the
estimate is the mean over seeds; over all tasks (rows of suite and task "all") it is the
interquartile mean.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from cwm.analysis.normalise import comparable_tasks
from cwm.analysis.remarks import by_method
from cwm.analysis.scores import TASK
from cwm.analysis.statistics import (
    Statistic,
    Strata,
    area_under_curve,
    estimate,
    final_score,
    improvement,
    interquartile_mean,
    mean,
    on_grid,
)
from cwm.analysis.style import Method

ALL = {"suite": "all", "task": "all", "measure": "scaled"}
NOTHING = (np.nan, np.nan, np.nan)


def curves(scored: pd.DataFrame) -> pd.DataFrame:
    """One row per task, method and evaluated step: value, low, high, and n runs averaged.

    A baseline has one row without a step. Rows over all tasks go by `progress`, the step's share
    of the task's longest run, because budgets differ between tasks.
    """
    longest = scored.groupby(TASK)["step"].transform("max").clip(lower=1)
    scored = scored.assign(progress=scored["step"] / longest)
    rows = []
    for where, task in _tasks(scored):
        for method, of_method in by_method(task).items():
            for step, strata in _along([of_method], "step", "score"):
                at = {"step": step, "progress": step / max(1, task["step"].max())}
                rows.append(where | at | _row(method, strata, mean))
    for method, by_task in _over_tasks(scored).items():
        for share, strata in _along(by_task, "progress", "scaled"):
            at = {"step": np.nan, "progress": share}
            rows.append(ALL | at | _row(method, strata, interquartile_mean))
    return pd.DataFrame(rows)


def domains(scored: pd.DataFrame) -> pd.DataFrame:
    """One row per task and method: final score (`value`) and area under the curve with intervals.

    `better` is the probability of improvement over the same model and variant from scratch.
    """
    return _finals(scored, lambda method: method._replace(dataset="none"))


def ablations(scored: pd.DataFrame) -> pd.DataFrame:
    """One row per task and method, as `domains` has it, but `better` is over the whole method.

    The whole method of an ablation is its model without the words after the dash, in the standard
    variant, on the same data.
    """
    return _finals(scored, whole)


def whole(method: Method) -> Method:
    """The method that an ablation takes something from."""
    return method._replace(model=method.model.partition("-")[0], variant="standard")


def _finals(scored: pd.DataFrame, against: Callable[[Method], Method]) -> pd.DataFrame:
    rows = []
    for where, task in _tasks(scored):
        groups = {method: [of_method] for method, of_method in by_method(task).items()}
        rows += _final_rows(where, groups, "score", mean, against)
    over = _over_tasks(scored)
    return pd.DataFrame(rows + _final_rows(ALL, over, "scaled", interquartile_mean, against))


def by_horizon(frames: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean of an error over clips, by the number of frames predicted `ahead`, with its interval.

    frames: rows of the errors.csv of one or more seeds, with their `seed`. Clips where the error is
    not defined do not count.
    """
    predicted = frames[frames["phase"] == "predicted"].dropna(subset=column)
    ahead = predicted["t"] - frames.loc[frames["phase"] == "observed", "t"].max()
    rows = []
    for distance, clips in predicted.groupby(ahead)[column]:
        units = repeated(clips, predicted.loc[clips.index, "seed"])
        rows.append({"ahead": distance, "n": len(units)} | _named("value", estimate([units], mean)))
    return pd.DataFrame(rows, columns=["ahead", "n", "value", "value_low", "value_high"])


def repeated(clips: pd.Series, seed: pd.Series) -> np.ndarray:
    """What an interval resamples: means of the pre-training seeds, or the clips of a single one."""
    of_seeds = clips.groupby(seed).mean()
    return (of_seeds if len(of_seeds) > 1 else clips).to_numpy()


def _tasks(scored: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    for name, task in scored.groupby(TASK, sort=False):
        yield dict(zip([*TASK, "measure"], [*name, task["measure"].iloc[0]], strict=True)), task


def _over_tasks(scored: pd.DataFrame) -> dict[Method, list[pd.DataFrame]]:
    """Rows of each task, for the methods that ran on every task with a scale, if there are two."""
    tasks = comparable_tasks(scored)
    if len(tasks) < 2:
        return {}
    by_task = [by_method(scored[(scored[TASK] == task).all(axis=1)]) for task in tasks]
    return {
        method: [groups[method] for groups in by_task]
        for method in by_method(scored)
        if all(method in groups for groups in by_task)
    }


def _along(by_task: list[pd.DataFrame], x: str, y: str) -> list[tuple[float, Strata]]:
    """Seeds' scores, one array per task, at each x where every task has one."""
    if by_task[0][x].isna().all():  # a baseline: a level, not a curve
        return [(np.nan, [rows[y].to_numpy() for rows in by_task])]
    grid = np.unique(np.concatenate([rows[x].unique() for rows in by_task]))
    seeds = [
        np.stack([on_grid(run[x], run[y], grid) for _, run in rows.groupby("seed")])
        for rows in by_task
    ]
    columns = [[task[~np.isnan(task[:, i]), i] for task in seeds] for i in range(len(grid))]
    return [(at, strata) for at, strata in zip(grid, columns, strict=True) if all(map(len, strata))]


def _final_rows(
    where: dict[str, str],
    groups: dict[Method, list[pd.DataFrame]],
    y: str,
    statistic: Statistic,
    against: Callable[[Method], Method],
) -> list[dict[str, Any]]:
    finals = {m: [_per_seed(rows, y, final_score) for rows in groups[m]] for m in groups}
    rows = []
    for method, final in finals.items():
        areas = [_per_seed(of_task, y, area_under_curve) for of_task in groups[method]]
        other = finals.get(against(method))
        better = NOTHING
        if method.policy == "agent" and other and against(method) != method:
            better = improvement(final, other)
        row = where | _row(method, final, statistic)
        row |= _named("auc", estimate(areas, statistic)) | _named("better", better)
        rows.append(row)
    return rows


def _per_seed(rows: pd.DataFrame, y: str, reduce: Callable[[np.ndarray], float]) -> np.ndarray:
    """Each seed's evaluations in order to one number, (seeds,)."""
    return np.array([reduce(run.to_numpy()) for _, run in rows.groupby("seed")[y]])


def _row(method: Method, strata: Strata, statistic: Statistic) -> dict[str, Any]:
    who = method._asdict() | {"method": method.label, "n": sum(map(len, strata))}
    return who | _named("value", estimate(strata, statistic))


def _named(name: str, numbers: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))
