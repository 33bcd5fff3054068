"""Which runs a study needs, and one-line errors for mistyped names."""

from pathlib import Path

import pytest

from cwm import study, study_file
from cwm.commands.run_spec import run_spec
from cwm.config import load
from cwm.infra.errors import UserError

ROOT = Path(__file__).parents[2]

FIGURE = """figures:
  curves:
    kind: curves
    title: Curves
    runs:
      - {suite: toy, tasks: [sphere], models: [plain, dreamer], datasets: [none], seeds: 2}
      - {suite: toy, tasks: [sphere], models: [plain], datasets: [none, something]}
"""
PRETRAINED = """figures:
  errors:
    kind: %s
    title: Errors
    pretrained: [{datasets: [%s], models: [contextwm, plain], seeds: %d}]
"""


@pytest.fixture
def smoke(project):
    """The study file of scale `smoke`, with one figure."""
    path = project / "config/study/smoke.yaml"
    path.write_text(FIGURE)
    return path


def test_a_run_that_several_blocks_name_is_listed_once(smoke):
    runs = study_file.finetune_runs(study.load("smoke").figures["curves"])
    assert [tuple(run)[2:] for run in runs] == [
        ("dreamer", "none", "standard", 0),
        ("dreamer", "none", "standard", 1),
        ("plain", "none", "standard", 0),
        ("plain", "none", "standard", 1),
        ("plain", "something", "standard", 0),
    ]


def test_seeds_start_from_pretrained_models_in_turn(smoke, snakemake):
    text = FIGURE.replace("[none, something]}", "[something], seeds: 3}")
    smoke.write_text("pretrained_seeds: 2\n" + text)
    loaded = study.load("smoke")
    models = [("something", "plain", 0), ("something", "plain", 1)]
    assert study_file.all_pretrained(loaded) == models
    assert loaded.initial_model("something", "plain", 2) == models[0]
    assert loaded.initial_model("none", "plain", 2) is None
    assert loaded.initial_model("official-something", "plain", 1).seed == 0

    folder = "results/smoke/finetune/toy/sphere/plain/something/standard"
    wanted = [f"{folder}/{seed}/scores.csv" for seed in range(3)]
    words = ("--dry-run", "--printshellcmds", "--config", "scale=smoke", "--", *wanted)
    planned = snakemake(smoke.parents[2], *words).stdout
    for seed, start in ((0, 0), (1, 1), (2, 0)):
        (line,) = [x for x in planned.splitlines() if f"--out {folder}/{seed} " in x]
        assert f"--pretrained results/smoke/pretrain/something/plain/{start}/weights.json" in line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[sphere]", "[spere]", r"figure curves: unknown task 'spere'; did you mean: sphere"),
        ("suite: toy", "suite: tyo", r"unknown suite 'tyo'; did you mean: toy"),
        ("dreamer]", "dreamr]", r"unknown model 'dreamr'; did you mean: dreamer"),
        ("something]", "somthing]", r"unknown dataset 'somthing'; did you mean: something"),
        ("kind: curves", "kind: curve", r"kind is 'curve'"),
        ("seeds: 2", "seed: 2", r"figures.curves.runs.0.seed is an unknown key"),
    ],
)
def test_a_mistake_in_a_study_is_one_line_with_similar_names(smoke, old, new, message):
    assert old in FIGURE
    smoke.write_text(FIGURE.replace(old, new))
    with pytest.raises(UserError, match=message) as error:
        study.load("smoke")
    assert "\n" not in str(error.value)


def test_official_models_need_a_dataset_only_to_predict_videos(smoke):
    smoke.write_text(FIGURE.replace("something]", "official-mixture]"))
    runs = study_file.finetune_runs(study.load("smoke").figures["curves"])
    assert runs[-1].dataset == "official-mixture"
    smoke.write_text(PRETRAINED % ("prediction", "official-something", 1))
    study.load("smoke")
    smoke.write_text(PRETRAINED % ("prediction", "official-somthing", 1))
    with pytest.raises(UserError, match=r"unknown dataset 'somthing'; did you mean: something"):
        study.load("smoke")


def test_published_models_are_not_trained_again(smoke):
    smoke.write_text(FIGURE.replace("something]", "published-something]"))
    missing = Path("results/published/evidence/pretrain/something/plain/0/weights.json")
    with pytest.raises(UserError, match=f"figure curves: {missing} is missing; it is part"):
        study.load("smoke")
    missing.parent.mkdir(parents=True)
    missing.touch()
    loaded = study.load("smoke")
    missing.write_text('{"dataset": "something"}')
    files = [Path("config/scale/smoke.yaml"), Path("config/model/plain.yaml")]
    spec = run_spec("finetune", "toy/sphere", load(files), files, {"pretrained": missing}, 0)
    assert spec.labels["dataset"] == "published-something"
    assert study_file.all_pretrained(loaded) == []
    assert study.datasets(loaded) == []


@pytest.mark.parametrize(
    ("kind", "dataset", "seeds", "message"),
    [
        ("prediction", "published-something", 1, "may have been trained on the clips shown"),
        ("pretraining", "official-something", 1, "it has no training curves"),
        ("prediction_errors", "official-something", 2, "it has one seed"),
        ("prediction", "something", 2, "kind prediction shows one seed of each pre-trained"),
    ],
)
def test_a_figure_cannot_show_models_that_do_not_exist(smoke, kind, dataset, seeds, message):
    smoke.write_text(PRETRAINED % (kind, dataset, seeds))
    with pytest.raises(UserError, match=message):
        study.load("smoke")


def test_pretraining_has_seeds(smoke):
    smoke.write_text(PRETRAINED % ("prediction_errors", "something", 2))
    runs = study_file.pretrained_runs(study.load("smoke").figures["errors"])
    assert runs == [("something", m, s) for m in ("contextwm", "plain") for s in (0, 1)]


def test_an_unknown_figure_is_an_error_with_similar_names():
    laptop = study_file.read(ROOT / "config/study/laptop.yaml")
    with pytest.raises(UserError, match=r"unknown figure 'domain_abaltion'.*domain_ablation"):
        laptop.figure("domain_abaltion")


def test_a_scale_that_yaml_reads_as_a_number_must_be_quoted(smoke):
    message = "scale 7 is not a plain name: use small letters, digits and hyphens, in quotes"
    with pytest.raises(UserError, match=message):
        study.load(7)


def test_shipped_studies_are_valid_and_small_enough(monkeypatch):
    monkeypatch.chdir(ROOT)
    studies = {path.stem: study.load(path.stem) for path in Path("config/study").glob("*.yaml")}
    for scale, most in {"laptop": 30, "evidence": 100}.items():
        figures = studies[scale].figures.values()
        runs = {run for figure in figures for run in study_file.finetune_runs(figure)}
        assert len(runs) <= most


def test_the_figure_of_own_videos_is_valid():
    figure = study_file.read(ROOT / "config/videos.yaml").figure("videos")
    assert study_file.pretrained_runs(figure) == [("videos", "contextwm", 0)]
