"""What the runs of a study cost: time by stage and model, from benchmark.tsv and timing.jsonl."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NotRequired

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from typing_extensions import TypedDict

from cwm.analysis import panels
from cwm.analysis.models import looks_of
from cwm.analysis.provenance import About, Shown, save
from cwm.analysis.runs import folder_of, read_identity
from cwm.analysis.statistics import estimate, mean
from cwm.analysis.style import RC, Look, Method, model_label, scale_words
from cwm.analysis.tables import Reading, number, write
from cwm.infra import json_file
from cwm.infra.errors import UserError

STAGES = {
    "pretrain": "Pre-training",
    "predict": "Prediction",
    "represent": "Representation",
    "finetune": "Fine-tuning",
}
COLUMNS = {"wall": "s", "processor": "cpu_time"}  # ours -> of benchmark.tsv, seconds
TITLES = {"wall": "on the clock", "processor": "of processor cores"}
WATCHED = ("stage", "dataset", "model")
FINETUNED = ("stage", "suite", "task", "model", "dataset", "variant", "seed")
UNITS = {"seconds": 1, "minutes": 60, "hours": 3600}
WORDS = (
    "Time of a run by stage and model: on the clock, which other work on the machine lengthens, "
    "and of all processor cores together. A value is the mean over runs, with its 95 % bootstrap "
    "interval where there are several"
)


def read_costs(runs: Sequence[Path]) -> tuple[pd.DataFrame, Shown]:
    """A row per run with a benchmark: stage, model, `wall` and `processor` seconds.

    `runs` are run folders or files in them. Those without a benchmark are remarked, and those that
    were interrupted.
    """
    rows, notes, names, scales = [], [], [], set()
    for folder in dict.fromkeys(map(folder_of, runs)):
        run = read_identity(folder, "stage", "scale", "model", "dataset")
        keys = FINETUNED if "suite" in run else WATCHED
        name = "/".join(str(run[key]) for key in keys)
        names.append(name)
        scales.add(run["scale"])
        if not (folder / "benchmark.tsv").exists():
            notes.append(f"{name}: no benchmark, so it is left out.")
            continue
        spent = measured(folder)
        if np.isnan(spent["wall"]):
            notes.append(f"{name}: it was interrupted, and the clock of its last sitting left out.")
        what = STAGES.get(run["stage"], run["stage"])
        where = f"{what}, {run['suite']}" if run.get("suite") else what
        rows.append({"stage": where, "model": run["model"], **spent})
    if not names:
        raise UserError("no runs to draw")
    if len(scales) > 1:
        raise UserError(f"a figure shows one scale, but these runs are of {', '.join(scales)}")
    costs = pd.DataFrame(rows, columns=["stage", "model", *COLUMNS])
    notes += _thin(costs)
    seeds = costs.groupby(["stage", "model"], sort=False).size()
    counts = {f"{model_label(m)}, {stage}": int(n) for (stage, m), n in seeds.items()}
    return costs, Shown(scales.pop(), tuple(names), counts, tuple(notes))


def summary(costs: pd.DataFrame) -> pd.DataFrame:
    """A row per stage and model: n runs, and mean, interval and sum of both kinds of seconds."""
    rows = []
    for (stage, model), runs in costs.groupby(["stage", "model"], sort=False):
        row = {"stage": stage, "model": model, "n": len(runs)}
        for name in COLUMNS:
            known = runs[name].dropna().to_numpy()
            value = estimate([known], mean) if len(known) else (np.nan,) * 3
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), value, strict=True))
            row[f"{name}_total"] = runs[name].sum()
        rows.append(row)
    return pd.DataFrame(rows)


def draw_cost(runs: Sequence[Path], out: Path, about: About) -> None:
    """Time of a run by stage and model: small dots are runs, bars intervals of their mean."""
    costs, shown = read_costs(runs)
    table, stages = summary(costs), list(dict.fromkeys(costs["stage"]))
    drawn = looks_of(Method("agent", name, "", "standard") for name in costs["model"].unique())
    with mpl.rc_context(RC):
        figure, axes = panels.grid(2, height=0.32 * len(stages) + 0.6, columns=2)
        for ax, (name, title) in zip(axes, TITLES.items(), strict=True):
            unit = unit_of(costs[name])
            for row in table.itertuples():
                shift = (list(drawn).index(row.model) + 0.5) / len(drawn) - 0.5
                at = stages.index(row.stage) + 0.6 * shift
                of = costs[(costs["stage"] == row.stage) & (costs["model"] == row.model)]
                look, scale = drawn[row.model], UNITS[unit]
                _bar(ax, at, estimate_of(row, name) / scale, of[name] / scale, look, row.model)
            ax.set_yticks(range(len(stages)), stages if ax is axes[0] else [])
            ax.set_ylim(max(1, len(stages)) - 0.5, -0.5)
            ax.set_xlim(left=0)
            ax.set_xlabel(f"{title} ({unit})")
        panels.legend(figure, axes, map(model_label, drawn))
        save(figure, out, f"{WORDS}; small dots are single runs.", shown, about)


def make_cost_table(runs: Sequence[Path], out: Path) -> None:
    """The same as a table: OUT.csv in seconds, OUT.md and OUT.tex for people."""
    costs, shown = read_costs(runs)
    table = summary(costs)
    units = {name: unit_of(costs[name]) for name in TITLES}
    heading = ["Stage", "Model", "n"]
    heading += [
        f"{title} ({units[name]}){x}" for name, title in TITLES.items() for x in ("", ", sum")
    ]
    rows = []
    for row in table.itertuples():
        cells = [row.stage, model_label(row.model), str(row.n)]
        for name, unit in units.items():
            total = getattr(row, f"{name}_total") / UNITS[unit]
            cells += [number(*estimate_of(row, name) / UNITS[unit]), f"{total:.3g}"]
        rows.append(cells)
    write(out, table, Reading(heading, rows), f"{WORDS}. {scale_words(shown.scale)}", shown.remarks)


def unit_of(seconds: pd.Series) -> str:
    """The largest unit of which the longest run lasts at least two."""
    longest = seconds.max() if len(seconds) else 0
    return [unit for unit, size in UNITS.items() if size == 1 or longest >= 2 * size][-1]


def estimate_of(row: tuple, name: str) -> np.ndarray:
    """A value with its interval, in seconds."""
    return np.array([getattr(row, f"{name}{end}") for end in ("", "_low", "_high")])


def _bar(ax: Axes, at: float, value: np.ndarray, runs: pd.Series, look: Look, model: str) -> None:
    ax.plot(value[1:], [at, at], color=look.colour, lw=1.5)
    ax.plot(runs, np.full(len(runs), at + 0.1), ".", color=look.colour, ms=3, mew=0)
    ax.plot(value[:1], [at], look.marker, color=look.colour, ms=4, label=model_label(model))


def measured(folder: Path) -> dict[str, float]:
    """Seconds that a run took: `wall`, NaN if it was interrupted, and `processor`.

    Snakemake's benchmark knows the last sitting only, and looks at the processor every 30 s, the
    last time up to 30 s before the end. A run's own log knows all sittings, where there is one.
    """
    path = folder / "benchmark.tsv"
    try:
        table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
        spent = {ours: float(table[theirs].iloc[-1]) for ours, theirs in COLUMNS.items()}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{path} is not a benchmark of Snakemake: {error}") from error
    clock = _read_clock(folder / "timing.jsonl")
    if clock and clock[-1]["time"] - clock[0]["time"] > 1.1 * spent["wall"] + 60:  # interrupted
        spent = dict.fromkeys(COLUMNS, np.nan)
    taken = [line.get("processor") for line in clock]
    if taken and None not in taken:  # in each sitting it begins anew
        spent["processor"] = sum(x for x, after in pairwise([*taken, 0.0]) if after < x)
    return spent


class _Clock(TypedDict):
    time: float
    processor: NotRequired[float]


def _read_clock(path: Path) -> list[_Clock]:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [json_file.parse(line, _Clock, f"a line of {path}") for line in lines]


def _thin(costs: pd.DataFrame) -> Iterator[str]:
    for (stage, model), runs in costs.groupby(["stage", "model"], sort=False):
        if len(runs) == 1:
            yield f"{stage}, {model_label(model)}: one run, so no interval."
        if missing := runs["processor"].isna().sum():
            yield f"{stage}, {model_label(model)}: no processor time of {missing} runs."
