"""Compute cwm/analysis/published.csv from the scores that the authors of APV released.

git clone https://github.com/younggyoseo/apv
python tests/analysis/apv.py apv > cwm/analysis/published.csv

That repository has no licence, so we publish means and intervals, not its scores of single seeds.
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from cwm.analysis.statistics import (
    area_under_curve,
    estimate,
    final_score,
    interquartile_mean,
    mean,
)

FIRST, BETWEEN = {"metaworld": 5000, "dmc": 2000}, {"metaworld": 10_000, "dmc": 20_000}
UNIT = {
    "metaworld": 1,
    "dmc": 1000,
}  # returns are divided by the maximum before averaging over tasks


class Arrays(pickle.Unpickler):
    """Unpickle arrays only, so no code runs."""

    def find_class(self, module, name):
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} in a file of arrays")


def scores(clone, suite):
    """Evaluations, (seeds, points), by method and task."""
    with (Path(clone) / "data" / f"{suite}_raw_data.pkl").open("rb") as file:
        released = Arrays(file).load()
    return {
        method: {
            name.removeprefix(f"{suite}_").replace("_", "-"): array
            for name, array in sorted(tasks.items())
        }
        for method, tasks in released.items()
    }


def table(clone):
    """One row per suite, task ("all" of them too), method and quantity."""
    rows = []
    for suite in UNIT:
        for method, tasks in scores(clone, suite).items():
            for task, array in tasks.items():
                rows += _rows((suite, task, method), [array], mean)
            scaled = [array / UNIT[suite] for array in tasks.values()]
            rows += _rows((suite, "all", method), scaled, interquartile_mean)
    names = ["suite", "task", "method", "quantity", "step", "value", "value_low", "value_high"]
    return pd.DataFrame(rows, columns=names)


def _rows(name, arrays, statistic):
    suite, points = name[0], arrays[0].shape[1]
    for i in range(points):
        step = FIRST[suite] + i * BETWEEN[suite]
        yield (*name, "curve", step, *estimate([array[:, i] for array in arrays], statistic))
    for quantity, reduce in (("final", final_score), ("auc", area_under_curve)):
        seeds = [np.array([reduce(run) for run in array]) for array in arrays]
        yield (*name, quantity, "", *estimate(seeds, statistic))


if __name__ == "__main__":
    table(sys.argv[1]).to_csv(sys.stdout, index=False, float_format="%.4f")
