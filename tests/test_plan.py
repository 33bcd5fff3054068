"""The numbers of a plan, worked out by hand."""

import json
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
    """A study of the smoke scale, and a table in which every unit takes one second and byte."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "config/study/smoke.yaml").write_text(FIGURE)
    monkeypatch.chdir(tmp_path)
    plan.settings.cache_clear()
    kinds = {job[:2] for job in plan.jobs("smoke", study.load("smoke"))}
    rows = [f"{stage},{of},smoke,Abacus,1,1" for stage, of in sorted(kinds)]
    Path("costs.csv").write_text("\n".join(["stage,of,scale,device,seconds,bytes", *rows, ""]))
    yield tmp_path
    plan.settings.cache_clear()


def words(target, scale="smoke", gpus=0):
    return plan.plan(target, scale, Path("costs.csv"), 2, gpus)


def test_units_of_every_job(project):
    jobs = {job.folder: job.units for job in plan.jobs("smoke", study.load("smoke")) if job.folder}
    expected = {f"finetune/toy/sphere/dreamer/none/standard/{seed}": 80 for seed in (0, 1)}
    expected |= {f"pretrain/something/plain/{seed}": 8 for seed in (0, 1, 2)}
    expected |= {f"predict/something/plain/{seed}": 2 for seed in (0, 1, 2)}
    expected |= {"baselines/toy/sphere": 2 * 2, "videos/something": 12}
    assert jobs == expected | {f"clips/something/part-00{part}": 6 for part in (0, 1)}


def test_plan_of_a_figure_counts_every_initial_model(project):
    runs = "{suite: toy, tasks: [sphere], models: [plain], datasets: [something], seeds: 2}"
    figure = f"figures: {{one: {{kind: curves, title: Curves, runs: [{runs}]}}}}\n"
    Path("config/study/smoke.yaml").write_text(f"pretrained_seeds: 2\n{figure}")
    assert "2 fine-tuning runs, 2 pre-trained models" in words("one")


def test_hours_by_hand(project):
    first, *_, last = words("one").splitlines()
    # Two runs of 80 steps, four episodes of baselines, and four jobs that draw.
    assert first == (
        "smoke, one: 2 fine-tuning runs, 0 pre-trained models: "
        f"{168 / 3600:.3g} core-hours, {(80 + 4 + 1) / 3600:.3g} hours on 2 cores, 7e-09 GB"
    )
    assert last == "Estimated from: Abacus."


def test_finished_jobs_replace_the_table(project):
    run = project / "results/smoke/finetune/toy/sphere/dreamer/none/standard/0"
    run.mkdir(parents=True)
    (run / "benchmark.tsv").write_text("s\tcpu_time\n300\t180\n")
    text = words("fig_one")
    assert f"finetune        2     1  {360 / 3600:.3g} hours" in text
    assert text.endswith("Estimated from: finished jobs in results/smoke; Abacus.")


def test_partial_wall_times_are_not_used(project, monkeypatch):
    monkeypatch.setattr(plan, "on_gpu", lambda scale: True)
    for seed, last_stamp in enumerate((100, 900)):  # the second run was interrupted
        run = project / f"results/smoke/finetune/toy/sphere/dreamer/none/standard/{seed}"
        run.mkdir(parents=True)
        (run / "benchmark.tsv").write_text("s\tcpu_time\n240\t180\n")
        stamps = [{"time": x} for x in (0, last_stamp)]
        (run / "timing.jsonl").write_text("\n".join(map(json.dumps, stamps)))
    assert f"finetune        2     2  {480 / 3600:.3g} hours" in words("fig_one")
    shutil.rmtree(run.with_name("0"))
    text = words("fig_one")
    assert f"finetune        2     1  {160 / 3600:.3g} hours" in text
    assert text.endswith("Estimated from: Abacus.")


def test_what_was_not_measured_is_named(project):
    table = project / "costs.csv"
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join(row for row in rows if not row.startswith("baselines")))
    text = words("one")
    assert f"at least {164 / 3600:.3g} core-hours" in text
    assert "hours not measured (not measured: toy)" in text


def test_files_to_fetch_are_named(project):
    text = words("domain_ablation", "paper", gpus=4)
    assert "GPU-hours not measured" in text
    assert "Missing: something, 40 GB. Something-Something V2 is free for research" in text
    (project / "data/something").mkdir(parents=True)
    assert "Missing: something" not in words("domain_ablation", "paper")


def test_wrong_names_are_errors(project):
    with pytest.raises(UserError, match="unknown figure 'thre'; did you mean"):
        words("thre")
    with pytest.raises(UserError, match=r"cannot read none\.csv"):
        plan.plan("one", "smoke", Path("none.csv"), 2, 0)


def test_table_is_written_from_finished_jobs_and_timed_updates(project, monkeypatch, capsys):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    run = project / "results/smoke/pretrain/something/plain/0"
    run.mkdir(parents=True)
    (run / "benchmark.tsv").write_text("s\tcpu_time\n300\t16\n")
    bench.main(["smoke", "--out", "new.csv"])
    rows = dict(line.split(",", 1) for line in Path("new.csv").read_text().splitlines()[1:])
    assert rows.keys() == {"finetune", "pretrain"}
    assert rows["pretrain"].split(",")[3:] == ["2", "18"]  # 16 s for 8 updates; 18 bytes of files
    assert 0 < float(rows["finetune"].split(",")[3]) < 60
    text = plan.plan("one", "smoke", Path("new.csv"), 2, 0)
    assert "at least" in text and "finetune hours not measured" not in text


def test_folder_without_settings_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no folder config in .*; `cwm init DIR` writes one"):
        plan.plan(None, None, Path("costs.csv"), 1, 0)
