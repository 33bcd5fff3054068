import numpy as np
import pandas as pd
import pytest
import study

from cwm.analysis.cost import make_cost_table, measured
from cwm.infra.errors import UserError


@pytest.fixture
def runs(tmp_path):
    """Two fine-tuning runs of ContextWM, one of the plain model, and a pre-training."""
    tuned = [study.finetune(tmp_path, {0: [1.0]}, seed=i) for i in range(2)]
    plain = study.finetune(tmp_path, {0: [1.0]}, method="plain/none/standard")
    return [
        study.benchmark(tuned[0], 100, 90),
        study.benchmark(tuned[1], 300, 100),
        study.benchmark(plain, 60, "-"),
        study.benchmark(study.pretrain(tmp_path, "contextwm"), 7200, 14000),
    ]


def test_means_and_sums_by_hand(runs, tmp_path):
    make_cost_table(runs, tmp_path / "cost")
    table = pd.read_csv(tmp_path / "cost.csv").set_index(["stage", "model"])
    ours = table.loc["Fine-tuning, toy", "contextwm"]
    assert (ours["n"], ours["wall"], ours["wall_total"]) == (2, 200, 400)
    assert (ours["wall_low"], ours["wall_high"], ours["processor"]) == (100, 300, 95)
    plain = table.loc["Fine-tuning, toy", "plain"]
    assert plain["wall"] == 60
    assert np.isnan(plain["processor"])
    text = (tmp_path / "cost.md").read_text()
    assert "| Pre-training | ContextWM | 1 | 120 | 120 | 233 | 233 |" in text
    assert "Scale: laptop" in text


def test_runs_without_a_benchmark_are_counted(runs, tmp_path):
    (runs[-1] / "benchmark.tsv").unlink()
    make_cost_table(runs[-1:], tmp_path / "none")
    text = (tmp_path / "none.md").read_text()
    assert "Runs without wall time, because they were interrupted or have no benchmark" in text
    assert "| Pre-training | ContextWM | 1 | n/a | n/a | n/a | n/a |" in text


def test_time_of_one_session_is_known(runs):
    study.timing(runs[0], [0, 99], [5.0, 95.5])
    assert measured(runs[0]) == {"wall": 100, "processor": 95.5}
    assert measured(runs[1]) == {"wall": 300, "processor": 100}


@pytest.mark.parametrize(
    ("stamps", "taken", "processor"),
    [
        ([0, 1, 2, 3], [5.0, 8.0, 3.0, 9.5], 17.5),  # killed after the second line
        ([0, 500], [5.0, 6.0], 6.0),  # the last session took 100 s
        ([0, 500], None, np.nan),
    ],
)
def test_interrupted_runs_have_no_wall_time(runs, stamps, taken, processor, tmp_path):
    study.timing(runs[0], stamps, taken)
    assert measured(runs[0]) == pytest.approx({"wall": np.nan, "processor": processor}, nan_ok=True)
    make_cost_table(runs, tmp_path / "cost")
    table = pd.read_csv(tmp_path / "cost.csv").set_index(["stage", "model"])
    ours = table.loc["Fine-tuning, toy", "contextwm"]
    assert (ours["n"], ours["wall"]) == (2, 300)
    assert np.isnan(ours["wall_total"])
    assert "have no benchmark.tsv: 1." in (tmp_path / "cost.md").read_text()


def test_broken_inputs_are_errors(runs, tmp_path):
    (runs[0] / "benchmark.tsv").write_text("nothing")
    with pytest.raises(UserError, match=r"benchmark.tsv is not a benchmark of Snakemake"):
        make_cost_table(runs, tmp_path / "cost")
    with pytest.raises(UserError, match="no runs for a cost table"):
        make_cost_table([], tmp_path / "cost")
