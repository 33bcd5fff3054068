"""The cost table: time of runs by stage and model, from benchmark.tsv and timing.jsonl."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import pandas as pd
from typing_extensions import TypedDict

from cwm.analysis.estimates import UNDEFINED, named
from cwm.analysis.runs import common_scale, folder_of
from cwm.analysis.statistics import estimate, mean
from cwm.analysis.style import model_label, scale_note
from cwm.analysis.tables import number, write
from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.run_json import read_run

STAGES = {"pretrain": "Pre-training", "predict": "Prediction", "finetune": "Fine-tuning"}
COLUMNS = {"wall": "s", "processor": "cpu_time"}  # our name -> Snakemake's, in seconds
CAPTION = (
    "Minutes of a run by stage and model: wall-clock time, which depends on the load of the "
    "machine, and processor time summed over cores. A value is the mean over runs whose time is "
    "known, with its 95 % bootstrap confidence interval. A sum is n/a if a run's time is unknown."
)


class Timing(TypedDict):
    """A line of timing.jsonl, in seconds."""

    time: float
    processor: NotRequired[float]


def make_cost_table(runs: Sequence[Path], out: Path) -> None:
    """Write out.csv in seconds, and out.md and out.tex in minutes.

    `runs` are run folders or files in them. UserError if there are none, or of several scales.
    """
    folders = list(dict.fromkeys(map(folder_of, runs)))
    if not folders:
        raise UserError("no runs for a cost table")
    identities = [read_run(folder, "stage", "scale", "model") for folder in folders]
    scale = common_scale(run["scale"] for run in identities)
    rows: list[dict[str, Any]] = []
    for folder, run in zip(folders, identities, strict=True):
        stage = STAGES.get(run["stage"], run["stage"])
        where = f"{stage}, {run['suite']}" if run.get("suite") else stage
        rows.append({"stage": where, "model": run["model"], **measured(folder)})
    table = summary(pd.DataFrame(rows))
    missing = sum(np.isnan(row["wall"]) for row in rows)
    why = "because they were interrupted or have no benchmark.tsv"
    notes = [f"Runs without wall time, {why}: {missing}."] if missing else []
    write(out, table, _text(table), f"{CAPTION} {scale_note(scale)}", notes)


def summary(costs: pd.DataFrame) -> pd.DataFrame:
    """A row per stage and model: n runs, and mean, interval and sum of both kinds of seconds.

    The mean is over runs whose time is known. The sum is NaN if the time of a run is unknown.
    """
    rows = []
    for (stage, model), runs in costs.groupby(["stage", "model"], sort=False):
        row = {"stage": stage, "model": model, "n": len(runs)}
        for name in COLUMNS:
            known = runs[name].dropna().to_numpy()
            row |= named(name, estimate([known], mean) if len(known) else UNDEFINED)
            row[f"{name}_total"] = runs[name].sum(skipna=False)
        rows.append(row)
    return pd.DataFrame(rows)


def measured(folder: Path) -> dict[str, float]:
    """`wall` and `processor` seconds of a run, NaN where they are unknown.

    benchmark.tsv covers the last session and samples the processor every 30 s. timing.jsonl, if
    there is one, has the exact processor seconds of all sessions. The wall time of an interrupted
    run is unknown, because no file has the start of each session.
    """
    path = folder / "benchmark.tsv"
    if not path.exists():
        return dict.fromkeys(COLUMNS, np.nan)
    try:
        table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
        spent = {ours: float(table[theirs].iloc[-1]) for ours, theirs in COLUMNS.items()}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{path} is not a benchmark of Snakemake: {error}") from error
    path = folder / "timing.jsonl"
    text = path.read_text(errors="replace") if path.exists() else ""
    lines = [json_file.parse(line, Timing, f"a line of {path}") for line in text.splitlines()]
    taken = [line["processor"] for line in lines if "processor" in line]
    # The counter restarts at zero with each session.
    sessions = [x for x, after in pairwise([*taken, 0.0]) if after < x]
    logged = lines[-1]["time"] - lines[0]["time"] if lines else 0.0
    if len(sessions) > 1 or logged > spent["wall"]:
        spent = dict.fromkeys(COLUMNS, np.nan)
    if lines and len(taken) == len(lines):
        spent["processor"] = sum(sessions)
    return spent


def _text(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in table.itertuples():
        cells = [row.stage, model_label(row.model), str(row.n)]
        for name in COLUMNS:
            ends = ("", "_low", "_high", "_total")
            *value, total = (getattr(row, name + end) / 60 for end in ends)
            cells += [number(*value), number(total, np.nan, np.nan)]
        rows.append(cells)
    columns = [f"{name} time{total}" for name in ("Wall", "Processor") for total in ("", ", sum")]
    return pd.DataFrame(rows, columns=["Stage", "Model", "n", *columns])
