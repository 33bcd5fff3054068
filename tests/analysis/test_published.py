"""Published results: their source, their bands in figures, and their quotes in docs/results.md.

APV=DIR pytest tests/analysis/test_published.py   # DIR: a clone of younggyoseo/apv
"""

import json
import os
from pathlib import Path

import apv
import numpy as np
import pandas as pd
import pytest
import study

from cwm.analysis import figures, published, scores, tables
from cwm.analysis import statistics as st
from cwm.analysis.draw import draw
from cwm.analysis.provenance import FigureMeta

CLONE = os.environ.get("APV")
RESULTS = Path(__file__).parents[2] / "docs" / "results.md"


def test_every_task_method_and_evaluation_is_there():
    table = published.load()
    curves = table[table["quantity"] == "curve"].groupby("suite")
    assert curves["step"].agg(["min", "max"]).to_numpy().tolist() == [
        [2000, 982_000],
        [5000, 245_000],
    ]
    assert curves.size().to_dict() == {"dmc": 3 * 4 * 50, "metaworld": 2 * 7 * 25}
    assert {*table.loc[table["suite"] == "metaworld", "task"]} == {*published.METAWORLD, "all"}
    assert (table["value_low"] <= table["value"]).all()
    assert (table["value"] <= table["value_high"]).all()


def test_the_mean_of_a_curve_is_its_auc():
    """The AUC is a mean over seeds of means over evaluations; the order does not matter."""
    table = published.load()
    of_tasks = table[table["task"] != "all"].set_index(["suite", "task", "method"])
    areas = of_tasks[of_tasks["quantity"] == "auc"]["value"]
    curves = of_tasks[of_tasks["quantity"] == "curve"]["value"].groupby(level=[0, 1, 2]).mean()
    np.testing.assert_allclose(curves[areas.index], areas, atol=2e-4)


@pytest.mark.skipif(not CLONE, reason="needs the released data: APV=DIR")
class TestReleasedScores:
    def test_the_table_is_computed_from_them(self):
        again = apv.table(CLONE)
        again["step"] = pd.to_numeric(again["step"])
        pd.testing.assert_frame_equal(again, published.load(), atol=6e-5, rtol=0)

    def test_aggregates_equal_those_of_rliable(self):
        """rliable 1.2.0 on the last evaluations, 20,000 (P: 2,000) resamples."""
        of = apv.scores(CLONE, "metaworld")
        ends = {method: [a[:, -1] for a in tasks.values()] for method, tasks in of.items()}
        for method, rliable in {
            "DreamerV2": (0.67917, 0.575, 0.76667),
            "APV": (0.95417, 0.9125, 0.97917),
        }.items():
            ours = st.estimate(ends[method], st.interquartile_mean)
            assert ours == pytest.approx(rliable, abs=0.005)
        better = st.improvement(ends["APV"], ends["DreamerV2"])
        assert better == pytest.approx((0.78516, 0.71745, 0.84769), abs=0.005)


META = FigureMeta("Title", "snakemake fig_x", "c0ffee")


@pytest.mark.parametrize(
    ("scale", "tasks"),
    [("paper", ["reach"]), ("laptop", ["reach"]), ("paper", published.METAWORLD)],
)
def test_bands_are_drawn_at_paper_scale_only(tmp_path, monkeypatch, scale, tasks):
    drawn = []
    band = figures.panels.published

    def seen(ax, method, x, rows):
        drawn.append((method, x.max()))
        band(ax, method, x, rows)

    monkeypatch.setattr(figures.panels, "published", seen)
    curve = {5000: [0], 125_000: [1], 250_000: [1]}
    runs = [
        study.finetune(tmp_path, curve, task=f"metaworld/{t}", success=True, scale=scale)
        for t in tasks
    ]
    scores.collect(runs, [], tmp_path / "s.csv")
    tables.make_table("curves", tmp_path / "s.csv", tmp_path / "t")
    draw("curves", [tmp_path / "t.csv", tmp_path / "s.csv"], tmp_path / "f", META)
    each = [("DreamerV2", 245_000), ("APV", 245_000)]
    expected = len(tasks) * each
    if len(tasks) == 6:
        expected += [("DreamerV2", 0.98), ("APV", 0.98)]
    assert drawn == (expected if scale == "paper" else [])
    details = json.loads((tmp_path / "f.json").read_text())["details"]
    assert ("Seo et al. 2022" in details) == (scale == "paper")


def test_other_tasks_have_no_bands():
    assert published.curves([("toy", "sphere")]) == {}
    assert published.curves([("metaworld", "reach"), ("toy", "sphere")]) == {}
    assert list(published.curves([("dmc", "hopper-hop")])) == [
        "DreamerV2",
        "APV (Locomotion)",
        "APV (Manipulation)",
    ]


def test_results_md_quotes_the_table():
    """Published numbers in docs/results.md equal those of published.csv."""
    table = published.load().set_index(["suite", "task", "method", "quantity", "step"])
    rows = [row.strip("| ").split(" | ") for row in RESULTS.read_text().splitlines()]
    rows = [row for row in rows if row[0].startswith(("metaworld/", "dmc/"))]
    assert len(rows) == 2 * 7 + 3 * 4
    for task, method, *cells in rows:
        suite, _, name = task.partition("/")
        ends = {"metaworld": (95_000, 245_000), "dmc": (482_000, 982_000)}[suite]
        keys = [("curve", step) for step in ends] + [("auc", np.nan)]
        for cell, (quantity, step) in zip(cells, keys, strict=False):
            of = table.loc[suite, name, method, quantity].reset_index()
            row = of[of["step"].isna() if np.isnan(step) else of["step"] == step].iloc[0]
            assert cell == tables.number(row["value"], row["value_low"], row["value_high"])
