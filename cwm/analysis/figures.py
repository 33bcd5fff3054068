"""Figures of scores: learning curves, and final scores by pre-training data or ablation.

Estimates are drawn from the table's CSV, single seeds from the tidy scores it was made from.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from cwm.analysis import panels, published
from cwm.analysis.caveats import caveats
from cwm.analysis.normalise import RULE, comparable_tasks, load_scaled
from cwm.analysis.provenance import Drawing
from cwm.analysis.runs import read_csv
from cwm.analysis.scores import METHOD, TASK, by_method, per_seed
from cwm.analysis.statistics import LAST_EVALUATIONS, final_score
from cwm.analysis.style import Method, line_styles, model_label
from cwm.infra.errors import UserError

ESTIMATE = [*TASK, *METHOD, "measure", "method"]


def draw_curves(table: Path, scores: Path) -> Drawing:
    """Draw learning curves; at paper scale, with the published bands of the same tasks."""
    scored, scale = load_scaled(scores)
    estimates = _estimates(table, scored, ["step", "progress"])
    styles = line_styles(by_method(scored))
    labels = {method: _with_seeds(rows, method) for method, rows in by_method(scored).items()}
    tasks = estimates.groupby(TASK, sort=False)
    source = ""
    figure, axes = panels.grid(len(tasks), height=1.55)
    for ax, (name, task) in zip(axes, tasks, strict=True):
        x = "progress" if name[0] == "all" else "step"
        shown = comparable_tasks(scored) if name[0] == "all" else [name]
        bands = published.curves(shown) if scale == "paper" else {}
        for label, rows in bands.items():
            along = rows["step"] / (1 if x == "step" else scored["step"].max())
            panels.published(ax, label, along, rows)
            source = f" {published.SOURCE}."
        for method, rows in by_method(task).items():
            if method.policy != "agent":
                panels.baseline(ax, method, rows["value"].iloc[0])
                continue
            panels.seed_lines(ax, _rows(scored, name, method), styles[method])
            panels.line(ax, rows[x], rows, labels[method], styles[method])
        panels.title(ax, name, task["measure"].iloc[0])
        if x == "step":
            panels.step_axis(ax, "environment steps")
        else:
            ax.set_xlabel("share of training")
    panels.legend(figure, axes, labels.values())
    caption = (
        "Learning curves: means over seeds with 95 % confidence intervals, and single seeds (thin)."
    )
    details = (
        "Over all tasks, lines are interquartile means over runs. Intervals are of the bootstrap, "
        f"resampling seeds within tasks. {RULE}.{source}"
    )
    return Drawing(figure, caption, details, scale, *about(scored))


def draw_domains(table: Path, scores: Path) -> Drawing:
    """Draw final scores grouped by pre-training data."""
    return _draw_finals(table, scores, "by pre-training data", lambda method: method.source)


def draw_ablations(table: Path, scores: Path) -> Drawing:
    """Draw final scores grouped by ablation."""
    what = "with parts of the method removed or changed"
    return _draw_finals(table, scores, what, lambda method: method.label)


def _draw_finals(table: Path, scores: Path, what: str, group: Callable[[Method], str]) -> Drawing:
    """One column per group of methods, with the models side by side in it."""
    scored, scale = load_scaled(scores)
    estimates = _estimates(table, scored, [])
    styles = line_styles(by_method(scored))
    groups = defaultdict(list)
    for method in sorted(styles, key=lambda method: method.dataset == "none"):
        groups[group(method)].append(method)
    offset = {m: (i + 0.5) / len(ms) - 0.5 for ms in groups.values() for i, m in enumerate(ms)}
    columns = {name: at for at, name in enumerate(groups)}
    tasks = estimates.groupby(TASK, sort=False)
    figure, axes = panels.grid(len(tasks), height=1.9, columns=2)
    for ax, (name, task) in zip(axes, tasks, strict=True):
        for method, rows in by_method(task).items():
            if method.policy != "agent":
                panels.baseline(ax, method, rows["value"].iloc[0])
                continue
            seeds = per_seed(_rows(scored, name, method), "score", final_score)
            at = columns[group(method)] + 0.6 * offset[method]
            panels.bar(ax, at, rows.iloc[0], seeds, styles[method], model_label(method.model))
        panels.title(ax, name, task["measure"].iloc[0])
        ax.set_xticks(range(len(columns)), columns, rotation=25, ha="right", rotation_mode="anchor")
        ax.set_xlim(-0.5, len(columns) - 0.5)
    panels.legend(figure, axes, dict.fromkeys(model_label(method.model) for method in styles))
    caption = (
        f"Final score {what}: means over seeds with 95 % confidence intervals, and single seeds "
        "(dots)."
    )
    details = (
        f"The final score of a seed is the mean of its last {LAST_EVALUATIONS} evaluations. Over "
        "all tasks, markers are interquartile means over runs. Hollow markers are without "
        f"pre-training. Intervals are of the bootstrap, resampling seeds within tasks. {RULE}."
    )
    return Drawing(figure, caption, details, scale, *about(scored))


def about(scored: pd.DataFrame) -> tuple[list[str], dict[str, int], list[str]]:
    """Runs, seeds per task and method, and caveats."""
    seeds = {
        f"{method.label} on {'/'.join(name)}": int(rows["seed"].nunique())
        for name, task in scored.groupby(TASK, sort=False)
        for method, rows in by_method(task).items()
    }
    agents = scored[scored["policy"] == "agent"]
    names = agents[[*TASK, *METHOD[1:], "seed"]].drop_duplicates().astype(str)
    runs = ["/".join(["finetune", *name]) for name in names.itertuples(index=False)]
    return runs, seeds, caveats(scored)


def _estimates(table: Path, scored: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    estimates = read_csv(table, ESTIMATE, [*numbers, "value", "value_low", "value_high"])
    if other := by_method(estimates).keys() - by_method(scored).keys():
        raise UserError(f"{table} was not made from these scores: it has {other.pop().label}")
    return estimates


def _rows(scored: pd.DataFrame, name: tuple[str, str], method: Method) -> pd.DataFrame:
    return scored[(scored[[*TASK, *METHOD]] == (*name, *method)).all(axis=1)]


def _with_seeds(rows: pd.DataFrame, method: Method) -> str:
    """The method's label, and for an agent its number of seeds per task, as a range."""
    if method.policy != "agent":
        return method.label
    counts = rows.groupby(TASK)["seed"].nunique()
    few, many = counts.min(), counts.max()
    span = f"{few}" if few == many else f"{few} to {many}"
    return f"{method.label} ({span} seed{'s' if many > 1 else ''})"
