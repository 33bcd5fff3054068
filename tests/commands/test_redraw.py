"""Figures of a study whose runs are incomplete."""

import json
import shutil

import pytest
from analysis import study

from cwm.commands.redraw import redraw
from cwm.infra.errors import UserError

STUDY = """figures:
  learning:
    kind: curves
    title: Curves
    notes: [Too short.]
    runs: [{suite: toy, tasks: [sphere], models: [contextwm, plain], datasets: [none], seeds: 2}]
  domains:
    kind: domains
    title: Domains
    runs: [{suite: toy, tasks: [sphere], models: [contextwm], datasets: [none], seeds: 2}]
  other:
    kind: curves
    title: Other
    runs: [{suite: dmc, tasks: [walker-walk], models: [plain], datasets: [none]}]
  losses:
    kind: pretraining
    title: Losses
    pretrained: &models [{datasets: [something], models: [plain, contextwm]}]
  errors:
    kind: prediction_errors
    title: Errors
    pretrained: *models
  strip:
    kind: prediction
    title: Strip
    pretrained: [{datasets: [something], models: [plain]}]
"""


@pytest.fixture
def results(tmp_path):
    """Four runs with equal scores."""
    (tmp_path / "study.yaml").write_text(STUDY)
    for method in ("contextwm/none/standard", "plain/none/standard"):
        for seed in range(2):
            study.finetune(tmp_path / "laptop", {0: [1], 9: [1]}, method=method, seed=seed)
    study.baselines(tmp_path / "laptop", {"random": 7.0})
    return tmp_path / "laptop"


def draw(results):
    out = results.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    redraw(results, results.parent / "study.yaml", out)
    return {
        path.stem: json.loads(path.read_text()) for path in sorted((out / "figures").glob("*.json"))
    }


def run(results, model, seed):
    return results / f"finetune/toy/sphere/{model}/none/standard/{seed}"


def test_a_complete_study_has_no_missing_runs(results, caplog):
    caplog.set_level("INFO")
    drawn = draw(results)
    assert list(drawn) == ["domains", "learning"]
    assert "missing" not in drawn["learning"]["caption"]
    assert len(drawn["learning"]["runs"]) == 4
    assert "other skipped: none of its 1 runs exist" in caplog.text
    assert "strip skipped: needs frames or times" in caplog.text
    assert drawn["learning"]["seeds"]["Random policy on toy/sphere"] == 2


def test_report_names_the_scale_of_the_runs_not_the_folder(results):
    results = results.rename(results.with_name("laptop-first"))
    draw(results)
    page = (results.parent / "out/report.html").read_text()
    assert "<title>ContextWM, scale laptop</title>" in page


def test_a_failed_run_is_named_and_the_others_are_drawn(results):
    (run(results, "contextwm", 1) / "scores.csv").unlink()  # run.json remains: the run started
    drawn = draw(results)
    assert "Too short. Runs missing: 1." in drawn["learning"]["caption"]
    assert "Runs missing: 1." in drawn["domains"]["caption"]
    notes = " ".join(drawn["learning"]["notes"])
    assert "Missing runs: toy/sphere/contextwm/none/standard/1." in notes
    assert "seed 1 of ContextWM, none (scratch) is missing" in notes
    assert "one seed, so no confidence interval, for ContextWM, none (scratch)" in notes
    assert "Missing runs" in (results.parent / "out/report.html").read_text()


def test_figures_of_pretrained_models_use_the_existing_runs(results):
    study.pretrain(results, "plain")
    study.predict(results, "plain")
    study.predict(results, "contextwm")
    drawn = draw(results)
    assert {"losses", "errors"} < drawn.keys()
    assert drawn["errors"]["runs"] == [f"predict/something/{m}/0" for m in ("contextwm", "plain")]
    assert "missing" not in drawn["errors"]["caption"]
    assert "Missing runs: something/contextwm/0." in drawn["losses"]["notes"]


def test_a_method_without_runs_is_listed_as_missing(results):
    for seed in range(2):
        shutil.rmtree(run(results, "contextwm", seed))
    drawn = draw(results)
    assert list(drawn) == ["learning"]
    assert "Runs missing: 2." in drawn["learning"]["caption"]
    assert drawn["learning"]["notes"][-1].count("toy/sphere/contextwm/none/standard/") == 2


def test_broken_scores_and_no_runs_are_errors(results):
    (run(results, "plain", 0) / "scores.csv").write_text("step,ret")
    with pytest.raises(UserError, match=r"plain/none/standard/0/scores.csv"):
        draw(results)
    shutil.rmtree(results / "finetune")
    with pytest.raises(UserError, match=r"laptop has no runs of .*study.yaml"):
        draw(results)
