"""Estimates with confidence intervals: learning curves and final scores.

Input is `scores.points` with the column `scaled` of `normalise.add_scaled`. On a task the estimate
is the mean over seeds; over all tasks (suite and task "all") it is the interquartile mean.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cwm.analysis.normalise import comparable_tasks
from cwm.analysis.scores import TASK, by_method, per_seed
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

UNDEFINED = (np.nan, np.nan, np.nan)


class Part(NamedTuple):
    """A task, or all of them: evaluations of each method as one frame per task."""

    where: dict[str, str]  # suite, task and measure
    methods: dict[Method, list[pd.DataFrame]]
    x: str
    y: str
    statistic: Statistic


def curves(scored: pd.DataFrame) -> pd.DataFrame:
    """One row per task, method and evaluated step: value, low, high, and n runs averaged.

    A baseline has one row without a step. Rows over all tasks use `progress`, the step divided by
    the last step of the task's longest run, because training lengths differ between tasks.
    """
    longest = scored.groupby(TASK)["step"].transform("max").clip(lower=1)
    rows = []
    for where, methods, x, y, statistic in _parts(scored.assign(progress=scored["step"] / longest)):
        end = 1 if x == "progress" else max(1, *(runs[0][x].max() for runs in methods.values()))
        for method, by_task in methods.items():
            for at, strata in _along(by_task, x, y):
                place = {"step": at if x == "step" else np.nan, "progress": at / end}
                rows.append(where | place | _row(method, strata, statistic))
    return pd.DataFrame(rows)


def domains(scored: pd.DataFrame) -> pd.DataFrame:
    """One row per task and method: final score (`value`) and area under the curve (`auc`).

    `better` is the probability of improvement over the same model and variant from scratch.
    """
    return _finals(scored, lambda method: method._replace(dataset="none"))


def ablations(scored: pd.DataFrame) -> pd.DataFrame:
    """Like `domains`, but `better` compares with the full method: `contextwm` for `contextwm-x`."""
    return _finals(
        scored,
        lambda method: method._replace(model=method.model.partition("-")[0], variant="standard"),
    )


def _finals(scored: pd.DataFrame, reference: Callable[[Method], Method]) -> pd.DataFrame:
    rows = []
    for where, methods, _, y, statistic in _parts(scored):
        finals, areas = (
            {m: [per_seed(task, y, reduce) for task in tasks] for m, tasks in methods.items()}
            for reduce in (final_score, area_under_curve)
        )
        for method, final in finals.items():
            other, better = reference(method), UNDEFINED
            if method.policy == "agent" and other != method and other in finals:
                better = improvement(final, finals[other])
            row = where | _row(method, final, statistic)
            row |= named("auc", estimate(areas[method], statistic)) | named("better", better)
            rows.append(row)
    return pd.DataFrame(rows)


def _parts(scored: pd.DataFrame) -> Iterator[Part]:
    """Each task; then all comparable ones, if there are two, with the methods that ran on all."""
    for name, task in scored.groupby(TASK, sort=False):
        where = dict(zip(TASK, name, strict=True)) | {"measure": task["measure"].iloc[0]}
        methods = {method: [evaluations] for method, evaluations in by_method(task).items()}
        yield Part(where, methods, "step", "score", mean)
    tasks = comparable_tasks(scored)
    if len(tasks) < 2:
        return
    by_task = [by_method(scored[(scored[TASK] == task).all(axis=1)]) for task in tasks]
    on_all = [m for m in by_method(scored) if all(m in methods for methods in by_task)]
    methods = {method: [each[method] for each in by_task] for method in on_all}
    where = {"suite": "all", "task": "all", "measure": "scaled"}
    yield Part(where, methods, "progress", "scaled", interquartile_mean)


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


def _row(method: Method, strata: Strata, statistic: Statistic) -> dict[str, Any]:
    name = method._asdict() | {"method": method.label, "n": sum(map(len, strata))}
    return name | named("value", estimate(strata, statistic))


def named(name: str, numbers: tuple[float, float, float]) -> dict[str, float]:
    """A value and its interval as columns of a table."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))
