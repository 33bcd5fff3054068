"""Caveats that a reader of scores needs: few seeds, missing runs, tasks left out of an average."""

from collections.abc import Iterable, Iterator

import pandas as pd

from cwm.analysis.normalise import comparable_tasks
from cwm.analysis.scores import TASK, by_method
from cwm.analysis.style import Method

ENOUGH_SEEDS = 5  # with fewer, bootstrap intervals are too narrow


def caveats(points: pd.DataFrame) -> list[str]:
    """Sentences on `scores.points` with its `scaled` column, task by task."""
    tasks = {"/".join(name): rows for name, rows in points.groupby(TASK, sort=False)}
    found = [f"{name}: {text}." for name, rows in tasks.items() for text in of_task(rows)]
    comparable = ["/".join(name) for name in comparable_tasks(points)]
    if len(tasks) > 1 and (omitted := [name for name in tasks if name not in comparable]):
        found.append(
            f"The average over tasks omits {', '.join(omitted)}: returns cannot be scaled, because "
            "no random policy was measured or no run scored higher than it."
        )
    return found


def of_task(points: pd.DataFrame) -> Iterator[str]:
    """Few seeds, seeds that other methods have, and runs that end early, on one task."""
    agents = by_method(points[points["policy"] == "agent"])
    seeds = {method: set(rows["seed"]) for method, rows in agents.items()}
    if alone := [method for method in agents if len(seeds[method]) == 1]:
        yield f"one seed, so no confidence interval, for {_names(alone)}"
    if few := [method for method in agents if 1 < len(seeds[method]) < ENOUGH_SEEDS]:
        yield f"fewer than {ENOUGH_SEEDS} seeds, so a rough confidence interval, for {_names(few)}"
    end = points["step"].max()
    for method, rows in agents.items():
        if missing := set().union(*seeds.values()) - seeds[method]:
            yield f"seed {', '.join(map(str, sorted(missing)))} of {method.label} is missing"
        last = rows.groupby("seed")["step"].max()
        for seed, step in last[last < end].items():
            yield f"seed {seed} of {method.label} ends at step {step:.0f} of {end:.0f}"


def _names(methods: Iterable[Method]) -> str:
    return "; ".join(method.label for method in methods)
