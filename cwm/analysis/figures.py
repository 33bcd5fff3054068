"""Figures of scores: tables in, STEM.pdf, STEM.png and STEM.json out.

Every function raises UserError naming the file that is missing or broken. Where a table holds the
estimate it is drawn, not estimated again.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from cwm.analysis import panels, published
from cwm.analysis.normalise import RULE, add_scaled, comparable_tasks
from cwm.analysis.provenance import About, Shown, save
from cwm.analysis.remarks import by_method, remarks
from cwm.analysis.runs import read_csv
from cwm.analysis.scores import METHOD, TASK, load, points
from cwm.analysis.statistics import LAST_EVALUATIONS, final_score
from cwm.analysis.style import RC, Method, looks, model_label
from cwm.infra.errors import UserError

ESTIMATE = [*TASK, *METHOD, "measure", "method"]


def draw_curves(table: Path, scores: Path, out: Path, about: About) -> None:
    """Learning curves: `table` is the curves table's CSV, `scores` the tidy table it came from."""
    scored, shown = _scored(scores)
    estimates = _estimates(table, scored, ["step", "progress"])
    drawn = looks(by_method(scored))
    labels = {method: _with_seeds(rows, method) for method, rows in by_method(scored).items()}
    tasks = estimates.groupby(TASK, sort=False)
    behind = ""
    with mpl.rc_context(RC):
        figure, axes = panels.grid(len(tasks), height=1.55)
        for ax, (name, task) in zip(axes, tasks, strict=True):
            x = "progress" if name[0] == "all" else "step"
            ran = comparable_tasks(scored) if name[0] == "all" else [name]
            bands = published.curves(ran) if shown.scale == "paper" else {}
            for method, rows in bands.items():
                along = rows["step"] / (1 if x == "step" else scored["step"].max())
                panels.published(ax, method, along, rows)
                behind = f" {published.SOURCE}."
            for method, rows in by_method(task).items():
                if method.policy != "agent":
                    panels.level(ax, method, rows["value"].iloc[0])
                    continue
                panels.seed_lines(ax, _rows(scored, name, method), drawn[method])
                panels.line(ax, rows[x], rows, labels[method], drawn[method])
            panels.title(ax, name, task["measure"].iloc[0])
            if x == "step":
                panels.steps(ax, "environment steps")
            else:
                ax.set_xlabel("share of training")
        panels.legend(figure, axes, labels.values())
        words = (
            "Learning curves: bold lines are means over seeds, thin lines single seeds, bands 95 % "
            "bootstrap intervals over seeds within tasks. Over all tasks the line is the "
            f"interquartile mean over runs. {RULE}.{behind}"
        )
        save(figure, out, words, shown, about)


def draw_domains(table: Path, scores: Path, out: Path, about: About) -> None:
    """Final score by pre-training data: `table` is the domains table's CSV, `scores` its source."""
    _draw_finals(table, scores, out, about, "by pre-training data", lambda method: method.source)


def draw_ablations(table: Path, scores: Path, out: Path, about: About) -> None:
    """Final score with parts removed: `table` is the ablations table's CSV, `scores` its source."""
    what = "with parts of the method removed or changed"
    _draw_finals(table, scores, out, about, what, lambda method: method.label)


def _draw_finals(
    table: Path, scores: Path, out: Path, about: About, what: str, group: Callable[[Method], str]
) -> None:
    """A column for each group of methods; within it, models side by side."""
    scored, shown = _scored(scores)
    estimates = _estimates(table, scored, [])
    drawn = looks(by_method(scored))
    agents = [method for method in drawn if method.policy == "agent"]
    groups = defaultdict(list)
    for method in sorted(agents, key=lambda method: method.dataset == "none"):
        groups[group(method)].append(method)
    shift = {m: (i + 0.5) / len(ms) - 0.5 for ms in groups.values() for i, m in enumerate(ms)}
    place = {name: at for at, name in enumerate(groups)}
    tasks = estimates.groupby(TASK, sort=False)
    with mpl.rc_context(RC):
        figure, axes = panels.grid(len(tasks), height=1.9, columns=2)
        for ax, (name, task) in zip(axes, tasks, strict=True):
            for method, rows in by_method(task).items():
                if method.policy != "agent":
                    panels.level(ax, method, rows["value"].iloc[0])
                    continue
                runs = _rows(scored, name, method).groupby("seed")["score"]
                seeds = np.array([final_score(run.to_numpy()) for _, run in runs])
                at = place[group(method)] + 0.6 * shift[method]
                panels.bar(ax, at, rows.iloc[0], seeds, drawn[method], model_label(method.model))
            panels.title(ax, name, task["measure"].iloc[0])
            ax.set_xticks(range(len(place)), place, rotation=25, ha="right", rotation_mode="anchor")
            ax.set_xlim(-0.5, len(place) - 0.5)
        panels.legend(figure, axes, dict.fromkeys(model_label(m.model) for m in agents))
        words = (
            f"Final score {what}: large markers are means over seeds (over all tasks "
            "interquartile means over runs), hollow without pre-training; bars are 95 % bootstrap "
            "intervals over seeds within tasks, dots single seeds, each the mean of its last "
            f"{LAST_EVALUATIONS} evaluations. {RULE}."
        )
        save(figure, out, words, shown, about)


def _scored(scores: Path) -> tuple[pd.DataFrame, Shown]:
    """Seeds' evaluations with their scaled scores, and what to say of them."""
    tidy = load(scores)
    scored = add_scaled(points(tidy))
    seeds = {
        f"{method.label} on {'/'.join(name)}": int(rows["seed"].nunique())
        for name, task in scored.groupby(TASK, sort=False)
        for method, rows in by_method(task).items()
    }
    agents = scored[scored["policy"] == "agent"]
    names = agents[[*TASK, *METHOD[1:], "seed"]].drop_duplicates().astype(str)
    runs = tuple("/".join(["finetune", *name]) for name in names.itertuples(index=False))
    return scored, Shown(tidy["scale"].iloc[0], runs, seeds, tuple(remarks(scored)))


def _estimates(table: Path, scored: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    estimates = read_csv(table, ESTIMATE, [*numbers, "value", "value_low", "value_high"])
    if other := by_method(estimates).keys() - by_method(scored).keys():
        raise UserError(f"{table} is not a table of these scores: it has {other.pop().label}")
    return estimates


def _rows(scored: pd.DataFrame, name: tuple[str, str], method: Method) -> pd.DataFrame:
    return scored[(scored[[*TASK, *METHOD]] == (*name, *method)).all(axis=1)]


def _with_seeds(rows: pd.DataFrame, method: Method) -> str:
    """The method's label, and for an agent its number of seeds per task, fewest to most."""
    if method.policy != "agent":
        return method.label
    counts = rows.groupby(TASK)["seed"].nunique()
    few, many = counts.min(), counts.max()
    span = f"{few}" if few == many else f"{few} to {many}"
    return f"{method.label} ({span} seed{'s' if many > 1 else ''})"
