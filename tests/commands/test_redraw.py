"""A study's figures from what is there of its runs."""

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
    """Four runs, which score the same throughout."""
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


def test_nothing_is_missing(results, caplog):
    caplog.set_level("INFO")
    drawn = draw(results)
    assert list(drawn) == ["domains", "learning"]
    assert drawn["learning"]["caption"].count("Missing") == 0
    assert len(drawn["learning"]["runs"]) == 4
    notes = " ".join(drawn["learning"]["notes"])
    assert "all seeds end alike, so the interval has no width" in notes
    assert "baseline policies that were not measured: constant, untrained" in notes
    assert "other is not drawn: none of its 1 runs are there" in caplog.text
    assert "strip is not drawn: it shows frames or times" in caplog.text
    assert drawn["learning"]["seeds"]["Random policy on toy/sphere"] == 2


def test_a_failed_run_is_named_and_the_others_drawn(results):
    (run(results, "contextwm", 1) / "scores.csv").unlink()  # it has begun, as run.json says
    drawn = draw(results)
    said = "Too short. Missing runs: toy/sphere/contextwm/none/standard/1."
    assert said in drawn["learning"]["caption"]
    assert "Missing runs: toy/sphere/contextwm/none/standard/1." in drawn["domains"]["caption"]
    notes = " ".join(drawn["learning"]["notes"])
    assert "no seed 1 of ContextWM, none (scratch)" in notes
    assert "one seed, so no interval, for ContextWM, none (scratch)" in notes
    assert "Missing runs" in (results.parent / "out/report.html").read_text()


def test_pretrained_models_are_drawn_as_far_as_they_are_there(results):
    study.pretrain(results, "plain")
    study.predict(results, "plain")
    study.predict(results, "contextwm")
    drawn = draw(results)
    assert {"losses", "errors"} < drawn.keys()
    assert drawn["errors"]["runs"] == [f"predict/something/{m}/0" for m in ("contextwm", "plain")]
    assert "Missing" not in drawn["errors"]["caption"]
    assert "Missing runs: something/contextwm/0." in drawn["losses"]["caption"]


def test_a_whole_method_may_be_missing(results):
    for seed in range(2):
        shutil.rmtree(run(results, "contextwm", seed))
    drawn = draw(results)
    assert list(drawn) == ["learning"]
    assert drawn["learning"]["caption"].count("toy/sphere/contextwm/none/standard/") == 2


def test_broken_scores_and_no_runs_are_errors(results):
    (run(results, "plain", 0) / "scores.csv").write_text("step,ret")
    with pytest.raises(UserError, match=r"plain/none/standard/0/scores.csv"):
        draw(results)
    shutil.rmtree(results / "finetune")
    with pytest.raises(UserError, match=r"laptop has no runs of .*study.yaml"):
        draw(results)
