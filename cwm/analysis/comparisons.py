"""Answers to the questions of a study: differences between two methods, as a table and a figure.

The questions, the two methods and the measure are in `config/study`, so they are fixed before the
runs. Differences of means have Welch intervals; p values are adjusted for all questions of a table.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cwm.analysis import panels
from cwm.analysis.caveats import caveats
from cwm.analysis.figures import about
from cwm.analysis.normalise import load_scaled
from cwm.analysis.provenance import Answer, Drawing
from cwm.analysis.runs import read_csv
from cwm.analysis.scores import METHOD, TASK, per_seed
from cwm.analysis.statistics import area_under_curve, final_score, holm, welch
from cwm.analysis.style import GREY, Method, scale_note
from cwm.analysis.tables import number, write
from cwm.study_file import Arm, Comparison

LEVEL = 0.05
ANSWERED = "#0072B2"  # colour of a difference that answers its question
REDUCE = {"area": area_under_curve, "final": final_score}
MEASURED = {"area": "area under the learning curve", "final": "final score"}
TEXT = ["question", "task", "measure", "first", "second", "answer"]
NUMBERS = ["n_first", "n_second", "missing", "difference", "low", "high", "p", "adjusted"]
RULE = (
    "A - B is the difference of the means over seeds, with its 95 % confidence interval "
    "(Welch's t). Area: area under the learning curve, the mean of all evaluations of a run; "
    "final: the mean of its last two. p is adjusted for the number of questions (Holm). Below "
    f"{LEVEL}, the answer is yes if A is larger and no if B is; otherwise it is inconclusive. A "
    "question with missing runs has no answer."
)


def make_comparison_table(comparisons: Sequence[Comparison], scores: Path, out: Path) -> None:
    """Answer the comparisons from the tidy `scores`, in out.csv, .md and .tex."""
    scored, scale = load_scaled(scores)
    rows = [_row(comparison, scored) for comparison in comparisons]
    table = pd.DataFrame(rows, columns=[*TEXT[:-1], *NUMBERS[:-1]])
    table["adjusted"] = holm(table["p"].tolist())
    table["answer"] = [_answer(row) for row in table.itertuples()]
    text = pd.DataFrame(
        [
            [
                row.question,
                row.answer,
                _difference(row),
                "n/a" if pd.isna(row.adjusted) else f"{row.adjusted:.2g}",
                f"{row.first} ({row.n_first})",
                f"{row.second} ({row.n_second})",
                f"{row.measure}, {row.task}",
            ]
            for row in table.itertuples()
        ],
        columns=["Question", "Answer", "A - B", "p", "A (seeds)", "B (seeds)", "Measure"],
    )
    write(out, table, text, f"{RULE} {scale_note(scale)}", caveats(scored))


def draw_comparisons(table: Path, scores: Path) -> Drawing:
    """Draw each difference with its interval, one line per question."""
    scored, scale = load_scaled(scores)
    rows = read_csv(table, TEXT, NUMBERS)
    figure, (ax,) = panels.grid(1, height=2.3)
    figure.set_figheight(0.8 + 0.32 * len(rows))
    for at, row in enumerate(rows.itertuples()):
        colour = ANSWERED if row.answer in ("yes", "no") else GREY
        ax.plot([row.low, row.high], [at, at], color=colour, lw=1.5)
        ax.plot([row.difference], [at], "o", color=colour, ms=4)
    ax.axvline(0, color=GREY, ls="--", lw=0.9, zorder=1)
    names = [f"{row.first}\nminus {row.second}" for row in rows.itertuples()]
    ax.set_yticks(np.arange(len(rows)), names, fontsize=6)
    ax.invert_yaxis()
    ax.set_xlabel("difference of the means")
    caption = "Differences between two methods, with 95 % confidence intervals; grey: no answer."
    answers = [
        Answer(
            question=row.question,
            measure=f"{row.task}, {MEASURED[row.measure]}",
            answer=row.answer,
            difference=_difference(row),
        )
        for row in rows.itertuples()
    ]
    return Drawing(figure, caption, RULE, scale, *about(scored), answers)


def _row(comparison: Comparison, scored: pd.DataFrame) -> list:
    task = scored[(scored[TASK] == (comparison.suite, comparison.task)).all(axis=1)]
    arms = comparison.first, comparison.second
    sides = [_scores(task, arm, REDUCE[comparison.measure]) for arm in arms]
    name = f"{comparison.suite}/{comparison.task}"
    labels = [_method(arm).label for arm in arms]
    counts = [len(side) for side in sides]
    missing = sum(arm.seeds for arm in arms) - sum(counts)
    return [
        comparison.question,
        name,
        comparison.measure,
        *labels,
        *counts,
        missing,
        *welch(*sides),
    ]


def _scores(task: pd.DataFrame, arm: Arm, reduce: Callable[[np.ndarray], float]) -> np.ndarray:
    """One number for each of the arm's seeds that exists."""
    rows = task[(task[METHOD] == _method(arm)).all(axis=1) & (task["seed"] < arm.seeds)]
    return per_seed(rows, "score", reduce)


def _method(arm: Arm) -> Method:
    return Method("agent", arm.model, arm.dataset, arm.variant)


def _difference(row: Any) -> str:
    return number(row.difference, row.low, row.high)


def _answer(row: Any) -> str:
    if row.missing:
        return "runs missing"
    if not row.adjusted < LEVEL:
        return "inconclusive"
    return "yes" if row.difference > 0 else "no"
