"""Sentences that a reader of scores must be told: what is thin, missing or left out."""

from collections.abc import Iterable, Iterator

import pandas as pd

from cwm.analysis.normalise import comparable_tasks
from cwm.analysis.scores import METHOD, TASK
from cwm.analysis.statistics import final_score
from cwm.analysis.style import POLICIES, Method, in_order

ENOUGH = 5  # seeds: with fewer, bootstrap intervals are too narrow

Groups = dict[Method, pd.DataFrame]


def remarks(points: pd.DataFrame) -> list[str]:
    """The sentences on `scores.points` with its `scaled` column, task by task."""
    found = []
    for name, task in points.groupby(TASK, sort=False):
        groups = by_method(task)
        agents = {method: rows for method, rows in groups.items() if method.policy == "agent"}
        facts = [*of_agents(agents)]
        if absent := POLICIES.keys() - {method.policy for method in groups}:
            facts.append(f"baseline policies that were not measured: {', '.join(sorted(absent))}")
        found += [f"{'/'.join(name)}: {fact}." for fact in facts]
    return found + list(_of_aggregate(points))


def by_method(points: pd.DataFrame) -> Groups:
    """The rows of each method, methods in the order of the legend."""
    groups = {Method(*key): rows for key, rows in points.groupby(METHOD, sort=False)}
    return {method: groups[method] for method in in_order(groups)}


def of_agents(agents: Groups) -> Iterator[str]:
    """Facts on the runs of one task: seeds that are few or absent, runs that are short or alike."""
    seeds = {method: set(rows["seed"]) for method, rows in agents.items()}
    if alone := [method for method in agents if len(seeds[method]) == 1]:
        yield f"one seed, so no interval, for {_names(alone)}"
    if few := [method for method in agents if 1 < len(seeds[method]) < ENOUGH]:
        yield f"fewer than {ENOUGH} seeds, so only a rough interval, for {_names(few)}"
    every = set().union(*seeds.values())
    for absent in dict.fromkeys(tuple(sorted(every - seeds[method])) for method in agents):
        if absent:
            those = [method for method in agents if every - seeds[method] == set(absent)]
            yield f"no seed {', '.join(map(str, absent))} of {_names(those)}"
    yield from _shorter_runs(agents)
    if level := [method for method, rows in agents.items() if _same_end(rows)]:
        yield f"all seeds end alike, so the interval has no width, for {_names(level)}"


def _shorter_runs(agents: Groups) -> Iterator[str]:
    """Seeds with fewer evaluations, or evaluated less far, than the longest run of the task."""
    if not agents:
        return
    most = max(rows.groupby("seed").size().max() for rows in agents.values())
    end = max(rows["step"].max() for rows in agents.values())
    for method, rows in agents.items():
        for seed, run in rows.groupby("seed"):
            if len(run) < most or run["step"].max() < end:
                yield (
                    f"seed {seed} of {method.label} has {len(run)} of {most} evaluations, "
                    f"the last at step {run['step'].max():.0f} of {end:.0f}"
                )


def _same_end(rows: pd.DataFrame) -> bool:
    ends = [final_score(run.to_numpy()) for _, run in rows.groupby("seed")["score"]]
    return len(ends) > 1 and len(set(ends)) == 1


def _of_aggregate(points: pd.DataFrame) -> Iterator[str]:
    """Why a task or a method is not in the numbers over all tasks."""
    comparable = comparable_tasks(points)
    tasks = list(points.groupby(TASK, sort=False).groups)
    if len(tasks) == 1:
        return
    for task in tasks:
        if task not in comparable:
            yield (
                f"Over all tasks, {'/'.join(task)} is left out: its returns have no scale, since "
                "no random policy was measured or nothing did better than it."
            )
    agents = by_method(points[points["policy"] == "agent"])
    partial = [m for m, rows in agents.items() if not {*comparable} <= {*rows.groupby(TASK).groups}]
    if partial and len(comparable) > 1:
        yield f"Over all tasks, only some of which they ran on, there is no {_names(partial)}."
    whole = {method: rows for method, rows in agents.items() if method not in partial}
    alone = [method for method, rows in whole.items() if _fewest_seeds(rows, comparable) == 1]
    if alone and len(comparable) > 1:
        yield f"Over all tasks, there is no interval where a task has one seed: {_names(alone)}."


def _fewest_seeds(rows: pd.DataFrame, tasks: list[tuple[str, str]]) -> int:
    return rows.groupby(TASK)["seed"].nunique()[tasks].min()


def _names(methods: Iterable[Method]) -> str:
    return "; ".join(method.label for method in methods)
