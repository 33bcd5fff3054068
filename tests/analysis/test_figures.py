"""Every kind of figure is drawn from run folders on disk and looked at as far as a test can."""

import json
import re
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import study
from matplotlib.colors import to_rgb

from cwm.analysis import figures, scores, tables
from cwm.analysis.provenance import About
from cwm.analysis.style import GREY, MODELS
from cwm.errors import UserError

ABOUT = About("Title", "snakemake fig_x", "c0ffee", claim="It helps.", notes=("Too short.",))
DRAW = {
    "curves": figures.draw_curves,
    "domains": figures.draw_domains,
    "ablations": figures.draw_ablations,
}
LEVELS = {"random": 1.0, "constant": 2.0, "untrained": 0.5}


def of_scores(root: Path, kind: str, runs: list[Path], baselines=(), about=ABOUT) -> Path:
    """The stem of a figure of these runs."""
    scores.collect(runs, list(baselines), root / "s.csv")
    tables.make_table(kind, root / "s.csv", root / "table")
    DRAW[kind](root / "table.csv", root / "s.csv", root / kind, about)
    return root / kind


def facts(stem: Path) -> dict:
    return json.loads(stem.with_suffix(".json").read_text())


def shows(stem: Path, colour: str) -> bool:
    """Whether the picture has pixels of about this colour."""
    image = matplotlib.image.imread(stem.with_suffix(".png"))[..., :3]
    return bool((np.abs(image - to_rgb(colour)).max(axis=-1) < 0.03).sum() > 5)


def assert_embedded(pdf: Path) -> None:
    """Fonts are embedded TrueType, and there is no Type 3 font."""
    content = pdf.read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert not re.search(rb"/(CreationDate|ModDate)", content)


def some_runs(root: Path) -> tuple[list[Path], list[Path]]:
    """A task with three methods, and one with a single run."""
    made = [
        study.finetune(root, {0: [1], 50: [3 + i], 100: [6 + i]}, seed=i, method=method)
        for i in range(2)
        for method in ("contextwm/something/standard", "contextwm/none/standard")
    ]
    made.append(study.finetune(root, {0: [1], 100: [4]}, method="plain/none/standard"))
    made.append(study.finetune(root, {0: [1], 9: [0]}, task="m/r", success=True))
    return made, [study.baselines(root, LEVELS)]


@pytest.fixture(scope="module", params=DRAW)
def stem(request, tmp_path_factory):
    """A figure of `some_runs` of each kind."""
    root = tmp_path_factory.mktemp("figure")
    return of_scores(root, request.param, *some_runs(root))


def test_figures_of_scores(stem):
    assert shows(stem, MODELS["contextwm"][1])
    assert shows(stem, MODELS["plain"][1])
    assert shows(stem, GREY)  # the levels of the baselines
    assert_embedded(stem.with_suffix(".pdf"))
    about = facts(stem)
    assert about["title"] == "Title"
    assert about["claim"] == "It helps."
    assert about["command"] == "snakemake fig_x"
    assert about["commit"] == "c0ffee"
    assert about["scale"] == "laptop"
    assert about["caption"].endswith(
        "Too short. Scale: laptop, too small for claims about the paper."
    )
    assert about["seeds"]["ContextWM, something on toy/sphere"] == 2
    assert "finetune/toy/sphere/contextwm/none/standard/1" in about["runs"]
    assert len(about["runs"]) == 6
    assert "toy/sphere: no seed 1 of Plain WM, none (scratch)." in about["notes"]


def test_what_a_figure_is_drawn_from_is_named_with_its_hash(tmp_path):
    data = tmp_path / "data.csv"
    data.write_bytes(b"")
    about = replace(ABOUT, config="config/study/laptop.yaml", data=(data,))
    stem = of_scores(tmp_path, "curves", *some_runs(tmp_path), about=about)
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert facts(stem)["data"] == {str(data): nothing}
    assert facts(stem)["config"] == "config/study/laptop.yaml"


def test_the_same_scores_give_the_same_bytes(tmp_path, stem):
    again = of_scores(tmp_path, stem.name, *some_runs(tmp_path))
    for suffix in (".pdf", ".png", ".json"):
        assert again.with_suffix(suffix).read_bytes() == stem.with_suffix(suffix).read_bytes()


def test_a_table_of_other_scores_is_refused(tmp_path, stem):
    other = study.finetune(tmp_path, {0: [1]}, method="dreamer/none/standard")
    scores.collect([other], [], tmp_path / "other.csv")
    draw = DRAW[stem.name]
    with pytest.raises(UserError, match="not a table of these scores"):
        draw(stem.with_name("table.csv"), tmp_path / "other.csv", tmp_path / "f", ABOUT)
    with pytest.raises(UserError, match=r"s.csv lacks the columns measure, method"):
        draw(stem.with_name("s.csv"), stem.with_name("s.csv"), tmp_path / "f", ABOUT)


@pytest.mark.parametrize("kind", DRAW)
@pytest.mark.parametrize("seeds", [1, 3])
def test_thin_scores_are_drawn_and_remarked(tmp_path, kind, seeds):
    """One seed, or seeds that all score the same, and a task where nobody beats chance."""
    made = [study.finetune(tmp_path, {0: [1], 10: [1]}, seed=i) for i in range(seeds)]
    made.append(study.finetune(tmp_path, {0: [7]}, task="toy/blob", seed=5))
    stem = of_scores(tmp_path, kind, made, [study.baselines(tmp_path, {"random": 1.0})])
    assert shows(stem, MODELS["contextwm"][1])
    notes = " ".join(facts(stem)["notes"])
    if seeds == 1:
        assert "toy/sphere: one seed, so no interval, for ContextWM, something." in notes
    else:
        assert "all seeds end alike, so the interval has no width" in notes
    assert "toy/blob: one seed" in notes
    assert "Over all tasks, toy/sphere is left out" in notes


def test_paper_scale_makes_no_excuse(tmp_path):
    made = [study.finetune(tmp_path, {0: [1]}, scale="paper")]
    assert facts(of_scores(tmp_path, "curves", made))["caption"].endswith("Scale: paper.")


def test_pretraining(tmp_path):
    trained = [study.pretrain(tmp_path, model) for model in ("plain", "contextwm")]
    tested = [study.predict(tmp_path, model) / "errors.csv" for model in ("plain", "contextwm")]
    stem = tmp_path / "pretraining"
    figures.draw_pretraining(trained, tested, stem, ABOUT)
    for colour in (MODELS["contextwm"][1], MODELS["plain"][1], GREY):
        assert shows(stem, colour)
    assert_embedded(stem.with_suffix(".pdf"))
    assert facts(stem)["runs"] == [
        "predict/something/contextwm",
        "predict/something/plain",
        "pretrain/something/contextwm",
        "pretrain/something/plain",
    ]
    assert facts(stem)["notes"] == []


def test_a_diverged_training_is_remarked(tmp_path):
    run = study.pretrain(tmp_path, "plain")
    lines = (run / "metrics.jsonl").read_text().splitlines()[:3]
    lines += ['{"step": 40, "train/image": NaN, "train/kl": 1}', '{"step": 50, "heldout/image": 2}']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    figures.draw_pretraining([run], [study.predict(tmp_path, "plain")], tmp_path / "f", ABOUT)
    said = "Plain WM, something: 1 values of train/image are not finite."
    assert facts(tmp_path / "f")["notes"] == [said]


def test_prediction(tmp_path):
    runs = [study.predict(tmp_path, model) for model in ("plain", "contextwm")]
    figures.draw_prediction(runs, tmp_path / "strip", ABOUT)
    image = matplotlib.image.imread(tmp_path / "strip.png")[..., :3]
    coloured = np.ptp(image, axis=-1) > 0.1
    assert 0.15 < coloured.mean() < 0.5  # three rows of frames among five
    assert_embedded(tmp_path / "strip.pdf")
    assert "4 frames are observed" in facts(tmp_path / "strip")["caption"]


def test_predictions_of_different_clips_are_refused(tmp_path):
    first, second = (study.predict(tmp_path, model) for model in ("plain", "contextwm"))
    arrays = dict(np.load(second / "predictions.npz"))
    np.savez(second / "predictions.npz", **arrays | {"truth": 255 - arrays["truth"]})
    with pytest.raises(UserError, match="predicts other clips"):
        figures.draw_prediction([first, second], tmp_path / "strip", ABOUT)


def test_broken_runs_are_named(tmp_path):
    trained, tested = study.pretrain(tmp_path, "plain"), study.predict(tmp_path, "plain")

    def draw(match):
        with pytest.raises(UserError, match=match):
            figures.draw_pretraining([trained], [tested], tmp_path / "f", ABOUT)

    with pytest.raises(UserError, match="are both Plain WM, something"):
        figures.draw_pretraining([trained, trained], [tested], tmp_path / "f", ABOUT)
    with pytest.raises(UserError, match="no runs to draw"):
        figures.draw_prediction([], tmp_path / "f", ABOUT)
    text = (tested / "errors.csv").read_text()
    (tested / "errors.csv").write_text(text.replace("predicted", "observed"))
    draw(r"errors.csv has not both observed and predicted frames")
    (tested / "errors.csv").write_text("clip,t\n")
    draw(r"errors.csv lacks the columns phase, mse")
    (trained / "metrics.jsonl").write_text('{"step": 1, "train/kl": 2}\n')
    draw(r"metrics.jsonl has no line with train/image")
    (trained / "metrics.jsonl").write_text('{"step": 1, "train/kl')
    draw(r"metrics.jsonl is not lines of JSON")
    (tested / "predictions.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"predictions.npz is not a file of arrays"):
        figures.draw_prediction([tested], tmp_path / "f", ABOUT)


def test_an_ablation_is_compared_with_the_whole_method(tmp_path):
    whole, without = "contextwm/something/standard", "contextwm/something/no-bonus"
    other = "contextwm-concatenation/something/standard"
    runs = [
        study.finetune(tmp_path, {0: [1], 100: [score + seed]}, seed=seed, method=method)
        for method, score in ((whole, 10), (without, 0), (other, 10))
        for seed in range(2)
    ]
    stem = of_scores(tmp_path, "ablations", runs)
    lines = (tmp_path / "table.md").read_text().splitlines()
    rows = {line.split("|")[2].strip(): line.split("|") for line in lines if "|" in line}
    assert rows["ContextWM, something"][5].strip() == ""
    assert rows["ContextWM, something, no bonus"][5].strip().startswith("0.00")
    assert rows["ContextWM, concatenation, something"][5].strip().startswith("0.50")
    assert "with parts of the method removed" in facts(stem)["caption"]
    assert_embedded(stem.with_suffix(".pdf"))
