"""The adaptation figure: does a world model that learned from recorded episodes use the actions?

Input is action_errors.csv of `cwm adapt`. Intervals resample the seeds, or the held-out windows if
there is one seed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cwm.analysis import panels
from cwm.analysis.provenance import Drawing, drawing_of_runs
from cwm.analysis.runs import read_csv, runs_by_seed
from cwm.analysis.statistics import estimate, mean
from cwm.analysis.style import GREY, LineStyle
from cwm.analysis.tables import number
from cwm.infra.errors import UserError
from cwm.infra.run_json import read_run

CONDITIONS = {  # actions in action_errors.csv: their name and style
    "true": ("recorded actions", LineStyle("#0072B2", "-", "o", "#0072B2")),
    "shuffled": ("actions of another window", LineStyle("#D55E00", "--", "^", "#D55E00")),
    "none": ("zero actions", LineStyle(GREY, ":", "s", "white")),
}


def draw_adaptation(runs: Sequence[Path]) -> Drawing:
    """Draw the error by horizon of each model, for the three kinds of actions."""
    methods = runs_by_seed(runs)
    folders = [folder for seeds in methods.values() for folder in seeds.values()]
    recorded = sorted({str(read_run(folder, "recorded")["recorded"]) for folder in folders})
    if len(recorded) > 1:
        raise UserError(f"runs on different recordings cannot be mixed: {', '.join(recorded)}")
    figure, axes = panels.grid(len(methods), height=1.9)
    notes = []
    for ax, (method, seeds) in zip(axes, methods.items(), strict=True):
        errors = read_errors(seeds)
        for name, (label, style) in CONDITIONS.items():
            rows = by_horizon(errors[errors["actions"] == name])
            panels.line(ax, rows["ahead"], rows, label, style)
        ax.set_title(method.label)
        ax.set_xlabel("frames ahead")
        ax.set_ylabel("mean squared error")
        notes.append(f"{method.label}: {ratios(errors)}.")
    panels.legend(figure, axes, [label for label, _ in CONDITIONS.values()])
    caption = (
        f"Does a world model that learned from the recorded episodes of {recorded[0]} use their "
        "actions? If not, its three lines are equal. Lower is better."
    )
    details = (
        "It observes the first frames of held-out windows and predicts the others: with the "
        "recorded actions, with those of another window, and with zeros. Mean squared error "
        "(pixels in 0..1) against the horizon. Bands are 95 % bootstrap intervals over seeds, or "
        "over windows if there is one seed."
    )
    return drawing_of_runs(figure, caption, details, folders, notes)


def read_errors(seeds: dict[int, Path]) -> pd.DataFrame:
    """The action_errors.csv of some seeds in one table; UserError unless all conditions occur."""
    tables = []
    for seed, folder in seeds.items():
        path = folder / "action_errors.csv"
        table = read_csv(path, ["actions"], ["clip", "ahead", "mse"])
        if set(table["actions"]) != CONDITIONS.keys():
            raise UserError(f"{path} needs rows of {', '.join(CONDITIONS)} actions")
        tables.append(table.assign(seed=seed))
    return pd.concat(tables, ignore_index=True)


def by_horizon(errors: pd.DataFrame) -> pd.DataFrame:
    """Mean error by frames `ahead`, with its interval, of one condition."""
    rows = [[ahead, *estimate([_units(rows)], mean)] for ahead, rows in errors.groupby("ahead")]
    return pd.DataFrame(rows, columns=["ahead", "value", "value_low", "value_high"])


def _units(errors: pd.DataFrame) -> np.ndarray:
    """Mean errors of the seeds, or of the windows if there is one seed."""
    unit = "seed" if errors["seed"].nunique() > 1 else "clip"
    return errors.groupby(unit)["mse"].mean().to_numpy()


def ratios(errors: pd.DataFrame) -> str:
    """How much larger the errors of other actions are than those of the recorded ones."""
    unit = "seed" if errors["seed"].nunique() > 1 else "clip"
    means = errors.groupby([unit, "actions"])["mse"].mean().unstack()
    texts = []
    for name in ("shuffled", "none"):
        larger = number(*estimate([(means[name] / means["true"]).to_numpy()], mean))
        texts.append(f"error with {CONDITIONS[name][0]} / with the recorded ones {larger}")
    return ", ".join(texts)
