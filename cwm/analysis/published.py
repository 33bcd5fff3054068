"""Published results on the same tasks, drawn as bands behind our curves.

published.csv holds means over 8 seeds (over all tasks, interquartile means over runs) with 95 %
bootstrap confidence intervals. tests/analysis/apv.py computes them with `statistics` from scores
that the authors of APV released. `quantity` is "curve" at a step, "final" or "auc".
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from cwm.analysis.runs import read_csv

SOURCE = (
    "Bands without a line are published results: 95 % bootstrap confidence intervals over 8 seeds "
    "of DreamerV2 and of APV, a pre-trained plain world model, from the scores released with Seo "
    "et al. 2022"
)
METAWORLD = (
    "button-press-topdown-wall", "dial-turn", "door-lock", "drawer-open", "lever-pull", "reach"
)  # fmt: skip
NUMBERS = ["step", "value", "value_low", "value_high"]


def load() -> pd.DataFrame:
    """The table of published numbers."""
    path = Path(__file__).with_name("published.csv")
    return read_csv(path, ["suite", "task", "method", "quantity"], NUMBERS)


def curves(tasks: Iterable[tuple[str, str]]) -> dict[str, pd.DataFrame]:
    """Published curves by method, of one (suite, task) or over the six tasks of Meta-world.

    Other sets of tasks have none, because their returns are scaled differently from ours.
    """
    table = load()
    table = table[table["quantity"] == "curve"]
    wanted = {*tasks}
    if wanted == {("metaworld", task) for task in METAWORLD}:
        wanted = {("metaworld", "all")}
    if len(wanted) > 1:
        return {}
    rows = table[[name in wanted for name in zip(table["suite"], table["task"], strict=True)]]
    return dict(list(rows.groupby("method", sort=False)))
