"""What runs cost, by hand."""

import json
import math

import pandas as pd
import pytest
import study
from pictures import ABOUT, assert_embedded, facts, shows

from cwm.analysis.cost import draw_cost, make_cost_table, measured, unit_of
from cwm.analysis.style import MODELS
from cwm.infra.errors import UserError

CURVE = {0: [1.0]}


@pytest.fixture
def runs(tmp_path):
    """Two fine-tuning runs of ContextWM, one of the plain model, and a pre-training."""
    made = [
        study.benchmark(study.finetune(tmp_path, CURVE, seed=i), 100 + 200 * i, 90 + 10 * i)
        for i in range(2)
    ]
    plain = study.finetune(tmp_path, CURVE, method="plain/none/standard")
    made.append(study.benchmark(plain, 60, "-"))
    return [*made, study.benchmark(study.pretrain(tmp_path, "contextwm"), 7200, 14000)]


def test_means_and_sums_by_hand(runs, tmp_path):
    make_cost_table(runs, tmp_path / "cost")
    table = pd.read_csv(tmp_path / "cost.csv").set_index(["stage", "model"])
    ours = table.loc["Fine-tuning, toy", "contextwm"]
    assert (ours["n"], ours["wall"], ours["wall_total"]) == (2, 200, 400)
    assert (ours["wall_low"], ours["wall_high"], ours["processor"]) == (100, 300, 95)
    assert table.loc["Fine-tuning, toy", "plain"]["wall"] == 60
    page = (tmp_path / "cost.md").read_text()
    assert "| Pre-training | ContextWM | 1 | 2.00 | 2 | 3.89 | 3.89 |" in page
    assert "Fine-tuning, toy, Plain WM: no processor time of 1 runs." in page


def test_training_cost(runs, tmp_path):
    draw_cost(runs, tmp_path / "cost", ABOUT)
    assert shows(tmp_path / "cost", MODELS["contextwm"][1])
    assert_embedded(tmp_path / "cost.pdf")
    assert facts(tmp_path / "cost")["seeds"]["ContextWM, Fine-tuning, toy"] == 2
    assert "Pre-training, ContextWM: one run, so no interval." in facts(tmp_path / "cost")["notes"]


def test_a_run_that_was_interrupted_or_not_measured_is_remarked(runs, tmp_path):
    times = [{"step": i, "time": 1e9 + 500 * i} for i in range(3)]
    (runs[0] / "timing.jsonl").write_text("\n".join(map(json.dumps, times)))
    (runs[1] / "benchmark.tsv").unlink()
    draw_cost(runs, tmp_path / "cost", ABOUT)
    first, second, *_ = facts(tmp_path / "cost")["notes"]
    assert first.endswith("0: it was interrupted, and the clock of its last sitting left out.")
    assert second.endswith("standard/1: no benchmark, so it is left out.")


def test_the_processor_is_counted_over_all_sittings(runs):
    taken = [5.0, 8.0, 3.0, 9.5]  # killed after the second line, begun anew
    lines = [{"time": 1e9 + 500 * i, "processor": x} for i, x in enumerate(taken)]
    (runs[0] / "timing.jsonl").write_text("\n".join(map(json.dumps, lines)))
    spent = measured(runs[0])
    assert spent["processor"] == 17.5
    assert math.isnan(spent["wall"])
    assert measured(runs[1]) == {"wall": 300, "processor": 100}


def test_nothing_measured_is_no_crash(runs, tmp_path):
    (runs[-1] / "benchmark.tsv").unlink()
    draw_cost(runs[-1:], tmp_path / "none", ABOUT)
    make_cost_table(runs[-1:], tmp_path / "none")
    assert "no benchmark, so it is left out" in (tmp_path / "none.md").read_text()


def test_a_broken_benchmark_is_named(runs, tmp_path):
    (runs[0] / "benchmark.tsv").write_text("nothing")
    with pytest.raises(UserError, match=r"benchmark.tsv is not a benchmark of Snakemake"):
        draw_cost(runs, tmp_path / "cost", ABOUT)


def test_the_unit_is_the_largest_that_is_exceeded_twice():
    assert [unit_of(pd.Series([s])) for s in (0.5, 119, 120, 7199, 7200)] == [
        "seconds",
        "seconds",
        "minutes",
        "minutes",
        "hours",
    ]
