"""Tables of estimates with confidence intervals, as STEM.csv, STEM.md and STEM.tex."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cwm.analysis import estimates
from cwm.analysis.caveats import caveats
from cwm.analysis.normalise import RULE, load_scaled
from cwm.analysis.scores import METHOD, TASK
from cwm.analysis.statistics import LAST_EVALUATIONS
from cwm.analysis.style import Method, model_label, scale_note
from cwm.infra.errors import unknown

INTERVALS = (
    "A value is the mean over seeds on a task, and the interquartile mean over runs across tasks. "
    "Brackets are 95 % bootstrap confidence intervals (CI), resampling seeds within tasks"
)
FINALS = (
    f"The final score of a seed averages its last {LAST_EVALUATIONS} evaluations, the area under "
    f"the curve (AUC) all of them. {INTERVALS}. P is the probability of improvement over"
)
CAPTIONS = {
    "curves": f"Score at the last evaluation. {INTERVALS}. {RULE}.",
    "domains": (
        f"Final score by pre-training data. {FINALS} the same model from scratch; a CI of P that "
        f"includes 0.5 is inconclusive. {RULE}."
    ),
    "ablations": (
        f"Final score with parts of the method removed or changed. {FINALS} the full method; a CI "
        f"of P that includes 0.5 is inconclusive. {RULE}."
    ),
}


def make_table(kind: str, scores: Path, out: Path) -> None:
    """Write the table `kind` (one of KINDS) of the tidy `scores` to out.csv, .md and .tex.

    UserError for an unknown kind, and for scores that `scores.load` refuses.
    """
    if kind not in KINDS:
        raise unknown("table", kind, KINDS)
    estimated, formatted = KINDS[kind]
    scored, scale = load_scaled(scores)
    table = estimated(scored)
    text = formatted(table[table["policy"] == "agent"])
    caption = f"{CAPTIONS[kind]} {scale_note(scale)}"
    write(out, table, text, caption, [*_baselines(table), *caveats(scored)])


def write(
    out: Path, table: pd.DataFrame, text: pd.DataFrame, caption: str, notes: Sequence[str]
) -> None:
    """Write the numbers to out.csv, and the table as text to out.md and out.tex."""
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out.with_name(f"{out.name}.csv"), index=False)
    for suffix, render in (("md", _markdown), ("tex", _latex)):
        path = out.with_name(f"{out.name}.{suffix}")
        path.write_text(render(text, caption, notes), encoding="utf-8")


def number(value: float, low: float, high: float) -> str:
    """A value with its interval in brackets, with decimals that suit the value's size.

    A value of NaN gives "n/a", an interval of NaN is left out.
    """
    if pd.isna(value):
        return "n/a"
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:.{decimals}f}"
    return text if pd.isna(low) else f"{text} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _curves(agents: pd.DataFrame) -> pd.DataFrame:
    """The last point of each curve."""
    ends = agents.groupby([*TASK, *METHOD], sort=False).tail(1)
    rows = [
        [_task(row), row.method, row.measure, _cell(row, "value"), str(row.n)]
        for row in ends.itertuples()
    ]
    return pd.DataFrame(rows, columns=["Task", "Method", "Measure", "Score", "n"])


def _domains(agents: pd.DataFrame) -> pd.DataFrame:
    """Rows are datasets, grouped by task; columns are models."""
    models = list(agents["model"].unique())
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in agents.itertuples():
        source = Method(*(getattr(row, key) for key in METHOD)).source
        parts = [_cell(row, "value"), f"AUC {_cell(row, 'auc')}"]
        parts += [f"P {_cell(row, 'better')}"] * (not pd.isna(row.better))
        cells = rows.setdefault((_task(row), source), {})
        cells[row.model] = "; ".join([*parts, f"n {row.n}"])
    return pd.DataFrame(
        [[*name, *(cells.get(model, "") for model in models)] for name, cells in rows.items()],
        columns=["Task", "Pre-trained on", *map(model_label, models)],
    )


def _ablations(agents: pd.DataFrame) -> pd.DataFrame:
    rows = [
        [_task(row), row.method, *(_cell(row, x) for x in ("value", "auc", "better")), str(row.n)]
        for row in agents.itertuples()
    ]
    return pd.DataFrame(rows, columns=["Task", "Method", "Score", "AUC", "P", "n"])


def _cell(row: Any, name: str) -> str:
    value, low, high = (getattr(row, name + end) for end in ("", "_low", "_high"))
    return "" if pd.isna(value) else number(value, low, high)


def _baselines(table: pd.DataFrame) -> Iterator[str]:
    """A sentence on the baseline policies of each task."""
    for _, task in table[table["policy"] != "agent"].groupby(TASK, sort=False):
        rows = list(task.itertuples())
        scores = ", ".join(f"{row.method} {_cell(row, 'value')}" for row in rows)
        yield f"{_task(rows[0])}: {scores}."


def _task(row: Any) -> str:
    return "all tasks" if row.task == "all" else f"{row.suite}/{row.task}"


def _markdown(table: pd.DataFrame, caption: str, notes: Sequence[str]) -> str:
    rows = [list(table), ["---"] * len(table.columns), *table.to_numpy()]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([*lines, "", caption, "", *(f"- {note}" for note in notes), ""])


def _latex(table: pd.DataFrame, caption: str, notes: Sequence[str]) -> str:
    """A `tabular` for the package booktabs, with the caption and notes as comments."""
    comments = [f"% {' '.join(line.split())}\n" for line in (caption, *notes)]
    style = table.style.hide(axis="index").format(escape="latex")
    style = style.format_index(escape="latex", axis="columns")
    return "".join(comments) + style.to_latex(hrules=True, column_format="l" * len(table.columns))


Step = Callable[[pd.DataFrame], pd.DataFrame]
KINDS: dict[str, tuple[Step, Step]] = {  # estimates, and their table as text
    "curves": (estimates.curves, _curves),
    "domains": (estimates.domains, _domains),
    "ablations": (estimates.ablations, _ablations),
}
