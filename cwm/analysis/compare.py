"""Compare two sets of runs: differences, probability of improvement, and what is missing."""

from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cwm.analysis.caveats import of_task
from cwm.analysis.normalise import RULE, add_scaled, comparable_tasks
from cwm.analysis.scores import METHOD, TASK, by_method, gather, load, per_seed, points
from cwm.analysis.statistics import (
    LAST_EVALUATIONS,
    Statistic,
    area_under_curve,
    difference,
    estimate,
    final_score,
    improvement,
    interquartile_mean,
    mean,
    welch,
)
from cwm.analysis.style import scale_note
from cwm.analysis.tables import number
from cwm.infra.errors import UserError
from cwm.infra.files import walk
from cwm.infra.run_json import read_run

CAPTION = (
    f"Final: mean of a run's last {LAST_EVALUATIONS} evaluations. AUC: mean of all its "
    "evaluations. On a task, the mean over runs; across tasks, the interquartile mean (IQM). "
    "P: probability of improvement of A over B on the same task. Brackets: 95 % confidence "
    "intervals (CI): Welch's t for A - B on a task, otherwise bootstrap, resampling runs within "
    "tasks. If the CI of A - B includes 0, the comparison is inconclusive."
)
Task = tuple[str, str]  # suite and name


class Side(NamedTuple):
    """One of the two sets: evaluations of its runs and of the baseline policies beside them."""

    name: str
    scale: str
    agents: pd.DataFrame
    baselines: pd.DataFrame
    sources: set[Path]


def compare(first: str, second: str) -> str:
    """Compare two sets of runs in a text table with caveats.

    A set is a folder or a glob of folders, which stands for all fine-tuning runs in them, or a CSV
    that `cwm scores` wrote. UserError if a set is empty or broken, if a run is in both, or if they
    have no task in common.
    """
    a, b = _read(first), _read(second)
    if both := a.sources & b.sources:
        raise UserError(f"{min(both)} is in both sets")
    agents = [a.agents.assign(side="A"), b.agents.assign(side="B")]
    baselines = pd.concat([a.baselines, b.baselines]).drop_duplicates([*TASK, "policy", "seed"])
    scored = add_scaled(pd.concat([*agents, baselines]))
    of_a, of_b = (dict(list(scored[scored["side"] == s].groupby(TASK, sort=False))) for s in "AB")
    tasks = [task for task in of_a if task in of_b]
    if not tasks:
        raise UserError(f"no task is in both {first} and {second}")
    rows = [["task", "", "A", "B", "A - B", "P(A > B)", "runs"]]
    for task in tasks:
        if of_a[task]["measure"].iloc[0] != of_b[task]["measure"].iloc[0]:
            raise UserError(f"{'/'.join(task)}: only one of the two sets reports success")
        rows += _rows("/".join(task), [of_a[task]], [of_b[task]], "score", mean)
    comparable = [task for task in comparable_tasks(scored) if task in tasks]
    averaged = len(comparable) > 1
    if averaged:
        in_a, in_b = ([side[task] for task in comparable] for side in (of_a, of_b))
        name = f"IQM, {len(comparable)} tasks"
        rows += _rows(name, in_a, in_b, "scaled", interquartile_mean)
    lines = [f"A: {a.name}", f"B: {b.name}", "", *_aligned(rows), "", CAPTION]
    lines += [f"{RULE}."] * averaged
    lines += [f"- {note}." for note in _caveats(of_a, of_b)]
    if averaged and (omitted := ["/".join(task) for task in tasks if task not in comparable]):
        lines.append(f"- The IQM omits {', '.join(omitted)}, whose returns cannot be scaled.")
    lines += dict.fromkeys(scale_note(side.scale) for side in (a, b))
    return "\n".join(lines)


def _read(name: str) -> Side:
    path = Path(name)
    if path.suffix == ".csv" and path.is_file():
        tidy, sources = load(path), {path.resolve()}
    else:
        # A folder of this name takes precedence. Path.glob accepts no absolute pattern.
        places = [path] if path.exists() else map(Path, glob(name))  # noqa: PTH207
        folders = [found for place in places if place.is_dir() for found in walk(place)]
        scored = sorted(folder for folder, names in folders if "scores.csv" in names)
        runs = [run for run in scored if read_run(run, "stage")["stage"] == "finetune"]
        if not runs:
            raise UserError(f"no runs in {name}")
        tidy, sources = gather(runs, _baselines_of(runs)), {run.resolve() for run in runs}
    evaluated = points(tidy)
    is_agent = evaluated["policy"] == "agent"
    agents = evaluated[is_agent]
    if agents.empty:
        raise UserError(f"no runs in {name}")
    count = len(agents[[*TASK, *METHOD, "seed"]].drop_duplicates())
    methods = "; ".join(method.label for method in by_method(agents))
    text = f"{name}: {count} run{'s'[: count > 1]} of {methods}"
    return Side(text, tidy["scale"].iloc[0], agents, evaluated[~is_agent], sources)


def _baselines_of(runs: list[Path]) -> list[Path]:
    """The baselines of the runs' tasks, if the runs lie in the results of a study."""
    found = []
    for run in runs:
        if len(up := run.absolute().parents) > 6:  # ROOT/finetune/SUITE/TASK/MODEL/DATASET/VARIANT
            found.append(up[6] / "baselines" / up[4].name / up[3].name)
    return [folder for folder in dict.fromkeys(found) if (folder / "scores.csv").exists()]


def _rows(
    name: str, a: list[pd.DataFrame], b: list[pd.DataFrame], unit: str, statistic: Statistic
) -> Iterator[list[str]]:
    """The table rows of one task, or of several together: final score and area under the curve."""
    measure = a[0]["measure"].iloc[0] if unit == "score" else "score"
    for what, reduce in ((f"final {measure}", final_score), ("AUC", area_under_curve)):
        ours, theirs = ([per_seed(task, unit, reduce) for task in side] for side in (a, b))
        estimates = [estimate(ours, statistic), estimate(theirs, statistic)]
        if statistic is mean:  # of one task
            estimates.append(welch(ours[0], theirs[0])[:3])
        else:
            estimates.append(difference(ours, theirs, statistic))
        estimates.append(improvement(ours, theirs))
        runs = " and ".join(str(sum(map(len, side))) for side in (ours, theirs))
        yield [name, what, *(number(*values) for values in estimates), runs]


def _caveats(of_a: dict[Task, pd.DataFrame], of_b: dict[Task, pd.DataFrame]) -> Iterator[str]:
    """Tasks and seeds in only one set, unequal training lengths, and too few seeds."""
    for side, ours, other in (("A", of_a, of_b), ("B", of_b, of_a)):
        for task, rows in ours.items():
            name = "/".join(task)
            if task not in other:
                yield f"{name} is in {side} only and is left out"
                continue
            if only := sorted(set(rows["seed"]) - set(other[task]["seed"])):
                yield f"{name}: seed {', '.join(map(str, only))} in {side} only"
            yield from (f"{name}, {side}: {fact}" for fact in of_task(rows))
    for task in of_a.keys() & of_b.keys():
        ends = [side[task]["step"].max() for side in (of_a, of_b)]
        if ends[0] != ends[1]:
            yield f"{'/'.join(task)}: A ends at step {ends[0]:.0f}, B at step {ends[1]:.0f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in padded]
