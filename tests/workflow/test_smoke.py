"""The whole workflow, from generated videos to the report, run at smoke scale."""

import json
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blocks import run

from cwm import study
from cwm.videos.store import ClipStore

ROOT = Path(__file__).parents[2]
SMOKE = ("--config", "scale=smoke", "--")


@pytest.fixture(scope="module")
def project(copy_project, snakemake, tmp_path_factory):
    """A copy of the project with the finished smoke study."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    done = snakemake(folder, *SMOKE, "all")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def results(project):
    return project / "results/smoke"


@pytest.fixture(scope="module")
def planned(project, snakemake):
    """Number of jobs of each rule that `snakemake all` would run now."""

    def dry_run():
        done = snakemake(project, "--dry-run", *SMOKE, "all")
        assert done.returncode == 0, done.stderr
        if "Nothing to be done" in done.stdout + done.stderr:
            return {}
        lines = (done.stdout + done.stderr).split("Job stats:")[1].split("total")[0].splitlines()
        rows = [line.split() for line in lines if len(line.split()) == 2]
        return {rule: int(count) for rule, count in rows if count.isdigit()}

    return dry_run


def test_videos_were_decoded(results):
    for dataset in ("something", "rlbench"):
        store = ClipStore.open(results / f"clips/{dataset}/store.json")
        window = store.windows(1, 8, "heldout", 0)
        assert window.shape == (1, 8, 64, 64, 3)
        assert window.std() > 10
        manifest = pd.read_parquet(results / f"clips/{dataset}/manifest.parquet")
        assert (manifest["status"] == "ok").all()
        assert len(manifest) == len(list((results / f"videos/{dataset}").rglob("*.[mw][pe][4b]*")))


def test_a_mixture_has_the_clips_of_its_members(results):
    mixture = ClipStore.open(results / "clips/mixture/store.json")
    assert [member.info["dataset"] for member in mixture.members] == [
        "something",
        "human36m",
        "youtube-driving",
    ]
    assert mixture.sample(0, 0, 6, 8).shape == (6, 8, 64, 64, 3)
    about = json.loads((results / "pretrain/mixture/contextwm/0/run.json").read_text())
    assert about["inputs"]["manifest"] == mixture.info["sha256"]["manifest"]


def test_runs_have_scores_metrics_and_weights(results):
    runs = sorted((results / "finetune").rglob("scores.csv"))
    assert len(runs) == 10
    for path in runs:
        scores = pd.read_csv(path)
        assert np.isfinite(scores["return"]).all()
        assert (scores[scores["split"] == "eval"].groupby("step").size() == 2).all()
        metrics = [json.loads(line) for line in (path.parent / "metrics.jsonl").open()]
        assert any("train/image" in line for line in metrics)
        assert any("eval/return" in line for line in metrics)
        about = json.loads((path.parent / "run.json").read_text())
        scratch = about["dataset"] == "none"
        assert scratch == ("pretrained" not in about["inputs"])
        assert (path.parent / "episode.mp4").stat().st_size > 500
        assert "12 generated clips" in (path.parent / "card.md").read_text() or scratch


def test_pretraining_changes_the_initial_loss_of_fine_tuning(results):
    losses = {}
    for dataset in ("something", "none"):
        path = results / f"finetune/toy/sphere/contextwm/{dataset}/standard/0/metrics.jsonl"
        losses[dataset] = json.loads(path.open().readline())["train/image"]
    assert losses["something"] != losses["none"]


def test_tables_count_the_seeds(results):
    table = pd.read_csv(results / "tables/learning_curves.csv")
    dreamer = table[(table["model"] == "dreamer") & (table["task"] == "sphere")]
    assert (dreamer["n"] == 2).all()


def test_the_report_shows_every_figure_and_the_scale(results):
    page = (results / "report.html").read_text()
    figures = study.read(ROOT / "config/study/smoke.yaml").figures
    for name in (name for name, figure in figures.items() if figure.kind != "cost"):
        facts = json.loads((results / f"figures/{name}.json").read_text())
        assert facts["title"] in page
        assert facts["command"] == f"snakemake fig_{name}"
        assert (results / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    assert "Scale: smoke" in page
    assert page.count("data:video/mp4") == 10


def test_figures_of_videos_note_small_samples(results):
    def notes(name):
        return " ".join(json.loads((results / f"figures/{name}.json").read_text())["notes"])

    assert "one held-out clip only, so no other context" in notes("composition")
    assert "1 held-out clip, so no intervals" in notes("prediction_errors")
    assert "scored by cross-validation over all clips" in notes("representations")
    cost = pd.read_csv(results / "tables/training_cost.csv")
    assert set(cost["stage"]) == {"Pre-training", "Prediction", "Fine-tuning, toy"}
    assert (cost["wall"] > 0).all()


def test_every_run_is_tracked_once_with_all_its_metrics(project, results):
    database = sqlite3.connect(project / "results/mlflow/tracking.db")
    for path in (results / "finetune").rglob("metrics.jsonl"):
        key = json.loads((path.parent / "run.json").read_text())["key"]
        query = "select run_uuid from tags where key = 'cwm.key' and value = ?"
        ((run,),) = database.execute(query, (key,)).fetchall()
        logged = database.execute("select count(*) from metrics where run_uuid = ?", (run,))
        lines = [json.loads(line) for line in path.open()]
        assert logged.fetchone() == (sum(len(line) - 1 for line in lines),)


def test_touching_files_of_a_finished_study_re_runs_nothing(project, results, planned):
    large = [*results.rglob("*.safetensors"), *results.rglob("*.npy")]
    for path in [*project.rglob("*.yaml"), *large]:
        path.touch()
    assert planned() == {}


def test_official_weights_give_the_same_results_as_ours(project, results, snakemake):
    """Weights of a run, exported as official files, give bit-identical predictions and scores."""
    ours, folder = results / "pretrain/something/contextwm/0", "data/official-something/contextwm"
    scores = "results/smoke/finetune/toy/sphere/contextwm/{}/standard/0/scores.csv"
    targets = [scores.format("official-something")]
    targets.append("results/smoke/predict/official-something/contextwm/0/errors.csv")
    missing = snakemake(project, *SMOKE, *targets)
    assert missing.returncode == 1
    assert f"{folder}/encoder_variables.pt" in missing.stdout + missing.stderr

    command = ["cwm", "convert", ours / "weights.json", "--out", project / folder]
    subprocess.run(command, check=True)
    done = snakemake(project, *SMOKE, *targets)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rule convert" in done.stderr + done.stdout
    assert "rule pretrain" not in done.stderr + done.stdout
    model = "pretrain/{}/contextwm/0/weights.safetensors"
    for name in (model, "predict/{}/contextwm/0/errors.csv"):
        first, second = (name.format(dataset) for dataset in ("something", "official-something"))
        assert (results / first).read_bytes() == (results / second).read_bytes()
    first, second = (scores.format(dataset) for dataset in ("something", "official-something"))
    assert (project / first).read_bytes() == (project / second).read_bytes()


def test_commands_of_the_tutorial_run(project):
    run(ROOT / "docs/first-study.md", project)
    assert (project / "episode.mp4").stat().st_size > 500
    assert (project / "runs/pretrained/scores.csv").exists()


def test_an_edit_re_runs_exactly_the_runs_that_read_it(project, planned):
    model, variant = project / "config/model/dreamer.yaml", project / "config/variant/standard.yaml"
    before = model.read_text(), variant.read_text()
    model.write_text(before[0] + "# and a comment\n")
    assert planned()["finetune"] == 3
    variant.write_text("finetune: {agent: {behavior: {horizon: 4}}}\n")
    jobs = planned()
    model.write_text(before[0])
    variant.write_text(before[1])
    assert jobs["finetune"] == 10
    assert not {"pretrain", "collect", "clips", "baselines"} & set(jobs)
