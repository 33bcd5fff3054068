"""Scores of different tasks on one scale, so that they can be averaged."""

import numpy as np
import pandas as pd

from cwm.analysis.scores import TASK

RULE = (
    "Over tasks, the success rate is averaged as it is, and a return is first scaled to "
    "(return - R) / (B - R), where R is the random policy's mean return on the task and B the best "
    "single evaluation of any run shown here, or a baseline's mean if that is better; tasks weigh "
    "the same"
)


def add_scaled(points: pd.DataFrame) -> pd.DataFrame:
    """`scores.points` with a column `scaled`: RULE, or NaN for a task on which it is undefined.

    Undefined means that no random policy was measured, or that nothing did better than it. The
    best is taken from the table itself, so scaled returns compare within one table only.
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
    levels = task[task["policy"] != "agent"].groupby("policy")["score"].mean()
    random = levels.get("random", np.nan)
    reach = max(agents.max(), levels.max()) - random
    return (task["score"] - random) / reach if reach > 0 else task["score"] * np.nan
