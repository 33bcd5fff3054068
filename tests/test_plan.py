"""What a plan counts, by hand."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from bench import costs as bench
from cwm import plan, study
from cwm.infra.errors import UserError

ROOT = Path(__file__).parents[1]
FIGURE = """figures:
  one:
    kind: curves
    title: Curves
    runs:
      - {suite: toy, tasks: [sphere], models: [dreamer], datasets: [none], seeds: 2}
  two:
    kind: prediction_errors
    title: Errors
    pretrained: [{datasets: [something], models: [plain], seeds: 3}]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A study of the smoke scale, and a table in which everything takes one second and byte."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "config/study/smoke.yaml").write_text(FIGURE)
    monkeypatch.chdir(tmp_path)
    plan.settings.cache_clear()
    units = {unit for job in plan.jobs("smoke", study.load("smoke")) for unit in job.work}
    rows = [
        {**dataclasses.asdict(unit), "seconds": 1.0, "low": 0.5, "high": 2.0, "bytes": 1}
        | {"rounds": 3, "machine": "Abacus", "commit": "c0ffee1234" * 4 + "-dirty"}
        for unit in units
    ]
    for row in rows:
        del row["cfg"]
    bench.write(tmp_path / "costs.csv", rows)
    yield tmp_path
    plan.settings.cache_clear()


def work(job):
    return {unit.what: n for unit, n in job.work.items()}


def test_jobs_by_hand(project):
    jobs = {job.folder: work(job) for job in plan.jobs("smoke", study.load("smoke")) if job.folder}
    # 80 steps, of which 40 at random; an update each 10, an evaluation of two episodes each 20.
    assert jobs["finetune/toy/sphere/dreamer/none/standard/1"] == {
        "start": 1,
        "update": 2 + 4,
        "collect": 80,
        "evaluate": 3 * 2,
    }
    assert jobs["baselines/toy/sphere"] == {"start": 1, "evaluate": 2 * 2}
    assert jobs["pretrain/something/plain/2"] == {"start": 1, "pretrain": 8, "watch": 2}
    held_out = pytest.approx(0.1 * 12)  # of which the prediction would show two
    assert jobs["predict/something/plain/0"] == {"start": 1, "watch": held_out}
    assert jobs["videos/something"] == {"start": 1, "film": 12}
    assert jobs["clips/something/part-001"] == {"start": 1, "decode": 6}
    assert len(jobs) == 2 + 1 + 3 + 3 + 1 + 2


def test_prices_by_hand(project):
    words = plan.plan("one", "smoke", Path("costs.csv"), 2, 0).splitlines()
    # Two runs of 93 units each, baselines of 5, and a figure, its table and scores, and the page.
    assert words[0].startswith("smoke, one: 2 fine-tuning runs, 0 pre-trained models: ")
    assert f"{195 / 3600:.3g} [{97.5 / 3600:.3g}, {390 / 3600:.3g}] core-hours" in words[0]
    assert f"{99 / 3600:.3g} hours on 2 cores" in words[0]  # no sooner than one of each stage
    assert words[-1] == "Measured on Abacus, commit c0ffee1-dirty."


def test_what_is_done_stands_beside_what_was_predicted(project):
    run = project / "results/smoke/finetune/toy/sphere/dreamer/none/standard/0"
    run.mkdir(parents=True)
    (run / "benchmark.tsv").write_text("s\tcpu_time\n300\t180\n")
    words = plan.plan("fig_one", "smoke", Path("costs.csv"), 2, 0)
    assert f"1: {180 / 3600:.3g} ({93 / 3600:.3g})" in words
    (run / "timing.jsonl").write_text('{"time": 0}\n{"time": 900}\n')  # two sittings
    assert "1: " not in plan.plan("fig_one", "smoke", Path("costs.csv"), 2, 0)


def test_other_settings_are_not_measured(project):
    model = project / "config/model/dreamer.yaml"
    model.write_text(model.read_text().replace("network: cnn", "network: cnn, depth: 6"))
    plan.settings.cache_clear()
    words = plan.plan("one", "smoke", Path("costs.csv"), 2, 0)
    assert "not measured core-hours" in words
    assert "Not measured: collect toy/sphere/dreamer, evaluate toy/sphere/dreamer, update" in words
    with pytest.raises(UserError, match="unknown figure 'thre'; did you mean"):
        plan.plan("thre", "smoke", Path("costs.csv"), 2, 0)
    with pytest.raises(UserError, match=r"cannot read none\.csv"):
        plan.plan("one", "smoke", Path("none.csv"), 2, 0)


def test_what_has_to_be_fetched_is_named(project):
    words = plan.plan("domain_ablation", "paper", Path("costs.csv"), 16, 4)
    assert "not measured GPU-hours" in words
    assert "To get: something, 40 GB. Something-Something V2 is free for research" in words
    (project / "data/something").mkdir(parents=True)
    assert "To get: something" not in plan.plan(
        "domain_ablation", "paper", Path("costs.csv"), 16, 4
    )


@pytest.mark.parametrize("what", ["film", "decode", "pretrain", "evaluate"])
def test_a_unit_is_measured(project, capsys, what):
    units = (unit for job in plan.jobs("smoke", study.load("smoke")) for unit in job.work)
    row = bench.measure(next(unit for unit in units if unit.what == what), 1)
    assert 0 < row["low"] == row["seconds"] == row["high"] < 10
