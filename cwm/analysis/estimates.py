"""Estimates with confidence intervals: learning curves and final scores.

Input is `scores.points` with the column `scaled` of `normalise.add_scaled`. On a task the estimate
is the mean over seeds; over all tasks (suite and task "all") it is the interquartile mean.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from cwm.analysis.normalise import comparable_tasks
from cwm.analysis.scores import TASK, by_method
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

ALL_TASKS = {"suite": "all", "task": "all", "measure": "scaled"}
UNDEFINED = (np.nan, np.nan, np.nan)


def curves(scored: pd.DataFrame) -> pd.DataFrame:
    """One row per task, method and evaluated step: value, low, high, and n runs averaged.

    A baseline has one row without a step. Rows over all tasks use `progress`, the step divided by
    the last step of the task's longest run, because training lengths differ between tasks.
    """
    longest = scored.groupby(TASK)["step"].transform("max").clip(lower=1)
    scored = scored.assign(progress=scored["step"] / longest)
    rows = []
    for where, task in _tasks(scored):
        for method, evaluations in by_method(task).items():
            for step, strata in _along([evaluations], "step", "score"):
                at = {"step": step, "progress": step / max(1, task["step"].max())}
                rows.append(where | at | _row(method, strata, mean))
    for method, by_task in _over_tasks(scored).items():
        for share, strata in _along(by_task, "progress", "scaled"):
            at = {"step": np.nan, "progress": share}
            rows.append(ALL_TASKS | at | _row(method, strata, interquartile_mean))
    return pd.DataFrame(rows)


def domains(scored: pd.DataFrame) -> pd.DataFrame:
    """One row per task and method: final score (`value`) and area under the curve (`auc`).

    `better` is the probability of improvement over the same model and variant from scratch.
    """
    return _finals(scored, lambda method: method._replace(dataset="none"))


def ablations(scored: pd.DataFrame) -> pd.DataFrame:
    """Like `domains`, but `better` compares with the full method."""
    return _finals(scored, full_method)


def full_method(method: Method) -> Method:
    """The method that an ablation removes a part from: `contextwm-x` ablates `contextwm`."""
    return method._replace(model=method.model.partition("-")[0], variant="standard")


def _finals(scored: pd.DataFrame, reference: Callable[[Method], Method]) -> pd.DataFrame:
    rows = []
    for where, task in _tasks(scored):
        groups = {method: [evaluations] for method, evaluations in by_method(task).items()}
        rows += _final_rows(where, groups, "score", mean, reference)
    over = _over_tasks(scored)
    rows += _final_rows(ALL_TASKS, over, "scaled", interquartile_mean, reference)
    return pd.DataFrame(rows)


def _tasks(scored: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    for name, task in scored.groupby(TASK, sort=False):
        yield dict(zip([*TASK, "measure"], [*name, task["measure"].iloc[0]], strict=True)), task


def _over_tasks(scored: pd.DataFrame) -> dict[Method, list[pd.DataFrame]]:
    """Evaluations by task, of methods that ran on all comparable tasks; {} below two tasks."""
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
    if by_task[0][x].isna().all():  # a baseline has a level, not a curve
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
    reference: Callable[[Method], Method],
) -> list[dict[str, Any]]:
    finals = {m: [_per_seed(rows, y, final_score) for rows in groups[m]] for m in groups}
    rows = []
    for method, final in finals.items():
        areas = [_per_seed(evaluations, y, area_under_curve) for evaluations in groups[method]]
        other = finals.get(reference(method))
        better = UNDEFINED
        if method.policy == "agent" and other and reference(method) != method:
            better = improvement(final, other)
        row = where | _row(method, final, statistic)
        row |= _named("auc", estimate(areas, statistic)) | _named("better", better)
        rows.append(row)
    return rows


def _per_seed(rows: pd.DataFrame, y: str, reduce: Callable[[np.ndarray], float]) -> np.ndarray:
    """Reduce each seed's evaluations, in order, to one number, (seeds,)."""
    return np.array([reduce(run.to_numpy()) for _, run in rows.groupby("seed")[y]])


def _row(method: Method, strata: Strata, statistic: Statistic) -> dict[str, Any]:
    name = method._asdict() | {"method": method.label, "n": sum(map(len, strata))}
    return name | _named("value", estimate(strata, statistic))


def _named(name: str, numbers: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))
