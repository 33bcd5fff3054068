"""Tables of estimates with intervals: STEM.csv for machines, STEM.md and STEM.tex for readers."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cwm.analysis import estimates
from cwm.analysis.normalise import RULE, add_scaled
from cwm.analysis.remarks import remarks
from cwm.analysis.scores import METHOD, TASK, load, points
from cwm.analysis.statistics import LAST_EVALUATIONS
from cwm.analysis.style import Method, model_label, scale_words
from cwm.infra.errors import unknown

INTERVALS = (
    "On a task a value is the mean over seeds, over all tasks the interquartile mean over runs; "
    "brackets are 95 % bootstrap intervals, seeds resampled within tasks"
)
CAPTIONS = {
    "curves": f"Score at the last evaluation. {INTERVALS}. {RULE}.",
    "domains": (
        f"Final score by pre-training data. A seed's final score averages its last "
        f"{LAST_EVALUATIONS} evaluations, its area under the curve (AUC) all of them. {INTERVALS}. "
        f"P is the probability that a seed beats one of the same model from scratch. {RULE}."
    ),
    "ablations": (
        f"Final score with parts of the method removed or changed. A seed's final score averages "
        f"its last {LAST_EVALUATIONS} evaluations, its area under the curve (AUC) all of them. "
        f"{INTERVALS}. P is the probability that a seed beats one of the whole method. {RULE}."
    ),
}


class Reading(NamedTuple):
    """A table for people: a heading over rows of words."""

    heading: list[str]
    rows: list[list[str]]


def make_table(kind: str, scores: Path, out: Path) -> None:
    """Write the table `kind` (one of KINDS) of the tidy `scores` to out.csv, .md and .tex.

    Raises UserError for an unknown kind and for scores that `scores.load` refuses.
    """
    if kind not in KINDS:
        raise unknown("table", kind, KINDS)
    estimate, read = KINDS[kind]
    tidy = load(scores)
    scored = add_scaled(points(tidy))
    table = estimate(scored)
    caption = f"{CAPTIONS[kind]} {scale_words(tidy['scale'].iloc[0])}"
    notes = [*_levels(table), *remarks(scored)]
    write(out, table, read(table), caption, notes)


def write(
    out: Path, table: pd.DataFrame, reading: Reading, caption: str, notes: Sequence[str]
) -> None:
    """A table as out.csv, and as it is read as out.md and out.tex."""
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out.with_name(f"{out.name}.csv"), index=False)
    for suffix, written in (("md", _markdown), ("tex", _latex)):
        text = written(reading, caption, notes)
        out.with_name(f"{out.name}.{suffix}").write_text(text, encoding="utf-8")


def number(value: float, low: float, high: float) -> str:
    """A value with its interval in brackets, both with as many decimals as the value deserves."""
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    words = f"{value:.{decimals}f}"
    return words if pd.isna(low) else f"{words} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _read_curves(table: pd.DataFrame) -> Reading:
    """The end of each curve."""
    agents = table[table["policy"] == "agent"]
    ends = agents.groupby([*TASK, *METHOD], sort=False).tail(1)
    rows = []
    for row in ends.itertuples():
        score = number(row.value, row.value_low, row.value_high)
        rows.append([_task(row), row.method, row.measure, score, str(row.n)])
    return Reading(["Task", "Method", "Measure", "Score", "n"], rows)


def _read_domains(table: pd.DataFrame) -> Reading:
    """Datasets down, models across, task under task."""
    agents = table[table["policy"] == "agent"]
    models = list(agents["model"].unique())
    rows = []
    for _, task in agents.groupby(TASK, sort=False):
        cells: dict[str, dict[str, str]] = {}
        for row in task.itertuples():
            source = Method(*(getattr(row, key) for key in METHOD)).source
            cells.setdefault(source, {})[row.model] = "; ".join(_domain_cell(row))
        for source, of in cells.items():
            rows.append([_task(row), source, *(of.get(model, "") for model in models)])
    return Reading(["Task", "Pre-trained on", *map(model_label, models)], rows)


def _read_ablations(table: pd.DataFrame) -> Reading:
    agents = table[table["policy"] == "agent"]
    rows = [
        [
            _task(row),
            row.method,
            number(row.value, row.value_low, row.value_high),
            number(row.auc, row.auc_low, row.auc_high),
            "" if pd.isna(row.better) else number(row.better, row.better_low, row.better_high),
            str(row.n),
        ]
        for row in agents.itertuples()
    ]
    return Reading(["Task", "Method", "Score", "AUC", "P", "n"], rows)


def _domain_cell(row: tuple) -> Iterator[str]:
    yield number(row.value, row.value_low, row.value_high)
    yield f"AUC {number(row.auc, row.auc_low, row.auc_high)}"
    if not pd.isna(row.better):
        yield f"P {number(row.better, row.better_low, row.better_high)}"
    yield f"n {row.n}"


def _levels(table: pd.DataFrame) -> Iterator[str]:
    """A sentence on the baseline policies of each task."""
    for _, task in table[table["policy"] != "agent"].groupby(TASK, sort=False):
        rows = list(task.itertuples())
        words = (f"{r.method} {number(r.value, r.value_low, r.value_high)}" for r in rows)
        yield f"{_task(rows[0])}: {', '.join(words)}."


def _task(row: tuple | pd.Series) -> str:
    return "all tasks" if row.task == "all" else f"{row.suite}/{row.task}"


def _markdown(table: Reading, caption: str, notes: Sequence[str]) -> str:
    rows = [table.heading, ["---"] * len(table.heading), *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([*lines, "", caption, "", *(f"- {note}" for note in notes), ""])


def _latex(table: Reading, caption: str, notes: Sequence[str]) -> str:
    """A table environment for LaTeX with the package booktabs."""
    heading, *rows = (" & ".join(map(_tex, row)) + r" \\" for row in [table.heading, *table.rows])
    lines = [
        r"\begin{table}",
        rf"\caption{{{_tex(caption)}}}",
        rf"\begin{{tabular}}{{{'l' * len(table.heading)}}}",
        r"\toprule",
        heading,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\par\footnotesize {_tex(' '.join(notes))}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _tex(text: str) -> str:
    special = {c: rf"\{c}" for c in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return text.translate(str.maketrans(special))


Kind = tuple[Callable[[pd.DataFrame], pd.DataFrame], Callable[[pd.DataFrame], Reading]]
KINDS: dict[str, Kind] = {
    "curves": (estimates.curves, _read_curves),
    "domains": (estimates.domains, _read_domains),
    "ablations": (estimates.ablations, _read_ablations),
}
