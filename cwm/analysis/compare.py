"""Two sets of runs side by side: how much better is A than B, and how sure is that?"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cwm.analysis.normalise import RULE, add_scaled, comparable_tasks
from cwm.analysis.remarks import by_method, of_agents
from cwm.analysis.runs import read_identity
from cwm.analysis.scores import METHOD, TASK, gather, load, points
from cwm.analysis.statistics import (
    LAST_EVALUATIONS,
    Statistic,
    Strata,
    area_under_curve,
    difference,
    estimate,
    final_score,
    improvement,
    interquartile_mean,
    mean,
)
from cwm.analysis.style import scale_words
from cwm.analysis.tables import number
from cwm.infra.errors import UserError
from cwm.infra.files import walk

WORDS = (
    f"Final: the mean of a run's last {LAST_EVALUATIONS} evaluations; AUC: of all of them. On a "
    "task the mean over runs, over tasks the interquartile mean (IQM). P: the probability that a "
    "run of A beats one of B on the same task. Brackets: 95 % bootstrap intervals, runs resampled "
    "within tasks."
)

Name = tuple[str, str]  # suite and task


class Side(NamedTuple):
    """One of the two sets: agents' evaluations, and those of the policies that learn nothing."""

    said: str
    scale: str
    agents: pd.DataFrame
    levels: pd.DataFrame
    sources: set[str]  # of the runs


def compare(first: str, second: str) -> str:
    """What to say of two sets of runs, for people.

    A set is a folder, or a pattern of folders, below which every fine-tuning run counts; or a table
    of scores, TABLE.csv or TABLE.csv:SUITE/TASK/MODEL/DATASET/VARIANT, where `*` stands for
    anything. Raises UserError where a set is empty or broken, the two overlap, or share no task.
    """
    sides = {"A": _side(first), "B": _side(second)}
    a, b = sides.values()
    if both := a.sources & b.sources:
        raise UserError(f"{min(both)} is in both sets")
    agents = {name: side.agents.assign(side=name) for name, side in sides.items()}
    levels = pd.concat([a.levels, b.levels]).drop_duplicates([*TASK, "policy", "seed"])
    scored = add_scaled(pd.concat([*agents.values(), levels]))
    on = {
        name: dict(list(scored[scored["side"] == name].groupby(TASK, sort=False))) for name in sides
    }
    tasks = [task for task in on["A"] if task in on["B"]]
    if not tasks:
        raise UserError(f"no task is in both {first} and {second}")
    for task in tasks:
        if len({on[name][task]["measure"].iloc[0] for name in sides}) > 1:
            raise UserError(f"{'/'.join(task)}: only one of the two sets reports success")
    comparable = [task for task in comparable_tasks(scored) if task in tasks]
    rows = [["task", "", "A", "B", "A - B", "P(A > B)", "runs"]]
    for task in tasks:
        column = [[on[name][task]] for name in sides]
        rows += _rows("/".join(task), *column, "score", mean)
    pooled, unit = (tasks, "score") if len(tasks) == 1 else (comparable, "scaled")
    if pooled:
        over = [[on[name][task] for task in pooled] for name in sides]
        rows += _rows(
            f"IQM, {len(pooled)} task{'s'[: len(pooled) > 1]}", *over, unit, interquartile_mean
        )
    lines = [f"{name}: {side.said}" for name, side in sides.items()]
    lines += ["", *_aligned(rows), "", WORDS]
    if unit == "scaled":
        lines.append(f"{RULE}.")
    lines += [f"- {note}" for note in _notes(on, tasks, comparable)]
    lines += dict.fromkeys(scale_words(side.scale) for side in sides.values())
    return "\n".join(lines)


def _side(what: str) -> Side:
    """Read a set of runs."""
    table, _, pattern = what.partition(":")
    if table.endswith(".csv") and Path(table).is_file():
        tidy = load(Path(table))
        names = tidy[[*TASK, *METHOD[1:]]].agg("/".join, axis=1)
        chosen = names.map(lambda name: fnmatchcase(name, pattern or "*"))
        chosen &= tidy["policy"] == "agent"
        sources = {f"{name} of {table}" for name in names[chosen]}
        tidy = tidy[chosen | (tidy["policy"] != "agent")]
    else:
        # A folder of this very name comes before a pattern. Path.glob takes no absolute pattern.
        places = [Path(what)] if Path(what).exists() else map(Path, glob(what))  # noqa: PTH207
        folders = [found for place in places if place.is_dir() for found in walk(place)]
        found = [folder / "scores.csv" for folder, names in folders if "scores.csv" in names]
        stages = {path.parent: read_identity(path.parent, "stage") for path in sorted(found)}
        runs = [folder for folder, run in stages.items() if run["stage"] == "finetune"]
        if not runs:
            raise UserError(f"no runs in {what}")
        tidy, sources = gather(runs, _beside(runs)), {str(run.resolve()) for run in runs}
    evaluated = points(tidy)
    is_agent = evaluated["policy"] == "agent"
    agents = evaluated[is_agent]
    if agents.empty:
        raise UserError(f"no runs in {what}")
    names = "; ".join(method.label for method in by_method(agents))
    count = len(_runs(agents))
    said = f"{what}: {count} run{'s'[: count > 1]} of {names}"
    return Side(said, tidy["scale"].iloc[0], agents, evaluated[~is_agent], sources)


def _beside(runs: list[Path]) -> list[Path]:
    """The baselines of the tasks of `runs`, where these lie in a study."""
    found = []
    for run in runs:
        if len(up := run.absolute().parents) > 6:  # ROOT/finetune/SUITE/TASK/MODEL/DATASET/VARIANT
            found.append(up[6] / "baselines" / up[4].name / up[3].name)
    return [place for place in dict.fromkeys(found) if (place / "scores.csv").exists()]


def _runs(rows: pd.DataFrame) -> list[pd.DataFrame]:
    return [run for _, run in rows.groupby([*TASK, *METHOD, "seed"], sort=False)]


def _rows(
    name: str, a: list[pd.DataFrame], b: list[pd.DataFrame], unit: str, statistic: Statistic
) -> Iterator[list[str]]:
    """The lines of one task, or of all of them together."""
    measure = a[0]["measure"].iloc[0] if unit == "score" else "score"
    for what, reduce in ((f"final {measure}", final_score), ("AUC", area_under_curve)):
        strata: list[Strata] = [
            [np.array([reduce(run[unit].to_numpy()) for run in _runs(task)]) for task in side]
            for side in (a, b)
        ]
        numbers = [number(*estimate(side, statistic)) for side in strata]
        numbers += [number(*difference(*strata, statistic)), number(*improvement(*strata))]
        counts = " and ".join(str(sum(map(len, side))) for side in strata)
        yield [name, what, *numbers, counts]


def _notes(
    on: dict[str, dict[Name, pd.DataFrame]], tasks: list[Name], comparable: list[Name]
) -> Iterator[str]:
    """What is missing or thin."""
    for side, of in on.items():
        if only := ["/".join(task) for task in of if task not in tasks]:
            yield f"Only {side} has {', '.join(only)}, which is left out."
    for task in tasks:
        name = "/".join(task)
        seeds = {side: set(of[task]["seed"]) for side, of in on.items()}
        for side, other in (("A", "B"), ("B", "A")):
            if only := sorted(seeds[side] - seeds[other]):
                yield f"{name}: seed {', '.join(map(str, only))} in {side} only."
        ends = [of[task]["step"].max() for of in on.values()]
        if ends[0] != ends[1]:
            yield f"{name}: A ends at step {ends[0]:.0f}, B at step {ends[1]:.0f}."
        for side, of in on.items():
            yield from (f"{name}, {side}: {fact}." for fact in of_agents(by_method(of[task])))
        if len(tasks) > 1 and task not in comparable:
            yield (
                f"{name} is not in the IQM: its returns have no scale, since no random policy was "
                "measured or nothing did better than it."
            )


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in padded]
