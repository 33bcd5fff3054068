"""The invariance figure: do the latents of a clip follow its motion or its appearance?

Input is invariance.csv of `cwm invariance`. Intervals resample the seeds of pre-training, or the
pairs of looks if there is one seed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cwm.analysis import panels
from cwm.analysis.provenance import Drawing, drawing_of_runs
from cwm.analysis.runs import read_csv, runs_by_seed
from cwm.analysis.statistics import estimate, mean
from cwm.analysis.style import GREY, Method, model_label, model_styles
from cwm.analysis.tables import number
from cwm.infra.errors import UserError

# measure: title of its panel, label of its axis, and the value of latents that follow neither
MEASURES = {
    "gain": ("agreement of shadow pairs", "more than in the same look", 0.0),
    "closer": ("shadow closer than another motion", "share of comparisons", 0.5),
}
Estimate = tuple[float, float, float]


def draw_invariance(runs: Sequence[Path]) -> Drawing:
    """Draw both measures of each model, trained and untrained."""
    methods = runs_by_seed(runs)
    styles = model_styles(methods)
    scores = {
        method: {name: estimates(seeds, name) for name in ("trained", "untrained")}
        for method, seeds in methods.items()
    }
    figure, axes = panels.grid(len(MEASURES), height=1.9, columns=2)
    for ax, measure in zip(axes, MEASURES, strict=True):
        for at, (method, of) in enumerate(scores.items()):
            colour = styles[method.model].colour
            for x, name, fill in ((-0.15, "trained", colour), (0.15, "untrained", "white")):
                value, low, high = of[name][measure]
                ax.plot([at + x] * 2, [low, high], color=colour, lw=1.5)
                ax.plot([at + x], [value], "o", mfc=fill, color=colour, ms=4.5)
        _label(ax, measure, [*scores])
    panels.legend(figure, axes, [])
    caption = (
        "Do the latents follow the motion or the look of a clip? A shadow pair is one motion "
        "filmed in two looks. The dashed line follows neither."
    )
    details = (
        "Agreement is the probability mass that two posteriors of the "
        "action-free model share, averaged over frames and variables. Left: agreement of a pair "
        "minus that of different motions in the same look. Right: how often the shadow agrees more "
        "than another motion in the same look. Hollow markers are the same network before "
        "training; bars are 95 % bootstrap intervals."
    )
    folders = [folder for seeds in methods.values() for folder in seeds.values()]
    notes = [_note(method, of) for method, of in scores.items()]
    return drawing_of_runs(figure, caption, details, folders, notes)


def estimates(seeds: dict[int, Path], model: str) -> dict[str, Estimate]:
    """Both measures of the trained or untrained models of some seeds, with intervals."""
    tables = []
    for seed, folder in seeds.items():
        path = folder / "invariance.csv"
        table = read_csv(path, ["model", "look", "shadow"], ["pair", "others", "closer"])
        if (table := table[table["model"] == model]).empty:
            raise UserError(f"{path} has no rows of the {model} model")
        tables.append(table.assign(seed=seed, gain=table["pair"] - table["others"]))
    rows = pd.concat(tables)
    # Both directions of a pair of looks use the same clips.
    looks = pd.Series(map(frozenset, zip(rows["look"], rows["shadow"], strict=True)), rows.index)
    unit = rows["seed"] if len(seeds) > 1 else looks
    means = rows.groupby(unit.to_numpy())[[*MEASURES]].mean()
    return {name: estimate([means[name].to_numpy()], mean) for name in MEASURES}


def _label(ax: Axes, measure: str, methods: list[Method]) -> None:
    title, axis, neither = MEASURES[measure]
    ax.axhline(neither, color=GREY, ls="--", lw=0.9, zorder=1)
    ax.set_title(title)
    ax.set_ylabel(axis)
    several = len({method.dataset for method in methods}) > 1
    names = [model_label(m.model) + (f"\n{m.dataset}" if several else "") for m in methods]
    ax.set_xticks(np.arange(len(methods)), names)
    ax.set_xlim(-0.5, len(methods) - 0.5)


def _note(method: Method, of: dict[str, dict[str, Estimate]]) -> str:
    values = {f"{name} {model}": number(*of[model][name]) for model in of for name in MEASURES}
    return f"{method.label}: {', '.join(f'{name} {value}' for name, value in values.items())}."
