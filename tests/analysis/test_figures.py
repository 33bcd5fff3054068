"""Figures of scores are drawn from run folders on disk and looked at as far as a test can."""

from dataclasses import replace
from pathlib import Path

import pytest
import study
from pictures import ABOUT, assert_embedded, facts, shows

from cwm.analysis import figures, scores, tables
from cwm.analysis.style import GREY, MODELS
from cwm.infra.errors import UserError

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
