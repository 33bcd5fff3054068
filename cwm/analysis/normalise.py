"""Put scores of different tasks on one scale, so that they can be averaged."""

from pathlib import Path

import numpy as np
import pandas as pd

from cwm.analysis.scores import TASK, load, points

RULE = (
    "Across tasks, success rates are averaged unchanged, and returns are first scaled to "
    "(return - R) / (B - R), where R is the random policy's mean return on the task and B the best "
    "single evaluation of any run in the table, or a baseline's mean if that is higher; tasks have "
    "equal weight"
)


def load_scaled(scores: Path) -> tuple[pd.DataFrame, str]:
    """The evaluations in a table that `scores.collect` wrote, scaled, and the scale of the runs."""
    tidy = load(scores)
    return add_scaled(points(tidy)), tidy["scale"].iloc[0]


def add_scaled(points: pd.DataFrame) -> pd.DataFrame:
    """Add a column `scaled` to `scores.points`, as RULE defines it.

    It is NaN on a task where no random policy was measured or nothing scored higher than it. The
    best score comes from the table itself, so scaled returns compare within one table only.
    """
    return pd.concat(
        [task.assign(scaled=_scaled(task)) for _, task in points.groupby(TASK, sort=False)]
    )


def comparable_tasks(points: pd.DataFrame) -> list[tuple[str, str]]:
    """Tasks whose `scaled` is defined."""
    defined = points.groupby(TASK, sort=False)["scaled"].agg(lambda column: column.notna().all())
    return list(defined[defined].index)


def _scaled(task: pd.DataFrame) -> pd.Series:
    if (task["measure"] == "success").all():
        return task["score"]
    agents = task[task["policy"] == "agent"]["score"]
    baselines = task[task["policy"] != "agent"].groupby("policy")["score"].mean()
    random = baselines.get("random", np.nan)
    span = max(agents.max(), baselines.max()) - random
    return (task["score"] - random) / span if span > 0 else task["score"] * np.nan
