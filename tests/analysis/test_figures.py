from dataclasses import replace
from pathlib import Path

import pytest
import study
from pictures import META, assert_embedded, facts, shows

from cwm.analysis import scores, tables
from cwm.analysis.draw import draw
from cwm.analysis.style import GREY, MODELS
from cwm.infra.errors import UserError

BASELINES = {"random": 1.0, "constant": 2.0, "untrained": 0.5}


def of_scores(root: Path, kind: str, runs: list[Path], baselines=(), meta=META) -> Path:
    """Draw a figure of these runs and return its stem."""
    scores.collect(runs, list(baselines), root / "s.csv")
    tables.make_table(kind, root / "s.csv", root / "table")
    draw(kind, [root / "table.csv", root / "s.csv"], root / kind, meta)
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
    return made, [study.baselines(root, BASELINES)]


@pytest.fixture(scope="module", params=tables.KINDS)
def stem(request, tmp_path_factory):
    """A figure of `some_runs` of each kind."""
    root = tmp_path_factory.mktemp("figure")
    return of_scores(root, request.param, *some_runs(root))


def test_a_figure_shows_its_methods_and_records_its_provenance(stem):
    assert shows(stem, MODELS["contextwm"][1])
    assert shows(stem, MODELS["plain"][1])
    assert shows(stem, GREY)  # the baselines
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
    assert "toy/sphere: seed 1 of Plain WM, none (scratch) is missing." in about["notes"]


def test_inputs_are_recorded_with_their_hash(tmp_path):
    data = tmp_path / "data.csv"
    data.write_bytes(b"")
    meta = replace(META, config="config/study/laptop.yaml", data=(data,))
    stem = of_scores(tmp_path, "curves", *some_runs(tmp_path), meta=meta)
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert facts(stem)["data"] == {str(data): nothing}
    assert facts(stem)["config"] == "config/study/laptop.yaml"


def test_equal_scores_give_equal_bytes(tmp_path, stem):
    again = of_scores(tmp_path, stem.name, *some_runs(tmp_path))
    for suffix in (".pdf", ".png", ".json"):
        assert again.with_suffix(suffix).read_bytes() == stem.with_suffix(suffix).read_bytes()


def test_a_table_of_other_scores_is_refused(tmp_path, stem):
    other = study.finetune(tmp_path, {0: [1]}, method="dreamer/none/standard")
    scores.collect([other], [], tmp_path / "other.csv")
    inputs = [stem.with_name("table.csv"), tmp_path / "other.csv"]
    with pytest.raises(UserError, match="was not made from these scores"):
        draw(stem.name, inputs, tmp_path / "f", META)
    with pytest.raises(UserError, match=r"s.csv lacks the columns measure, method"):
        draw(stem.name, [stem.with_name("s.csv")] * 2, tmp_path / "f", META)


@pytest.mark.parametrize("kind", tables.KINDS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_few_or_equal_scores_are_drawn_with_caveats(tmp_path, kind, seeds):
    """One seed, or seeds with equal scores, and a task whose returns cannot be scaled."""
    made = [study.finetune(tmp_path, {0: [1], 10: [1]}, seed=i) for i in range(seeds)]
    made.append(study.finetune(tmp_path, {0: [7]}, task="toy/blob", seed=5))
    stem = of_scores(tmp_path, kind, made, [study.baselines(tmp_path, {"random": 1.0})])
    assert shows(stem, MODELS["contextwm"][1])
    notes = " ".join(facts(stem)["notes"])
    few = "one seed, so no" if seeds == 1 else "fewer than 5 seeds, so a rough"
    assert f"toy/sphere: {few} confidence interval, for ContextWM, something." in notes
    assert "The average over tasks omits toy/blob, toy/sphere" in notes


def test_a_paper_scale_caption_has_no_caveat_on_scale(tmp_path):
    made = [study.finetune(tmp_path, {0: [1]}, scale="paper")]
    assert facts(of_scores(tmp_path, "curves", made))["caption"].endswith("Scale: paper.")


def test_an_ablation_is_compared_with_the_full_method(tmp_path):
    full, without = "contextwm/something/standard", "contextwm/something/no-bonus"
    other = "contextwm-concatenation/something/standard"
    runs = [
        study.finetune(tmp_path, {0: [1], 100: [score + seed]}, seed=seed, method=method)
        for method, score in ((full, 10), (without, 0), (other, 10))
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


def test_figure_needs_a_table_and_scores(tmp_path):
    with pytest.raises(UserError, match="curves needs its table and scores: two files"):
        draw("curves", [tmp_path / "s.csv"], tmp_path / "f", META)
