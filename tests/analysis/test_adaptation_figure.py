"""The adaptation figure: means and ratios by hand, and what it says."""

import pytest
import study
from pictures import META, assert_embedded, facts, shows

from cwm.analysis.adaptation_figure import CONDITIONS, by_horizon, ratios, read_errors
from cwm.analysis.draw import draw
from cwm.infra.errors import UserError


def test_errors_are_means_over_windows_of_one_seed(tmp_path):
    errors = read_errors({0: study.adaptation(tmp_path, "contextwm")})
    rows = by_horizon(errors[errors["actions"] == "true"])
    assert rows["ahead"].tolist() == [1, 2]
    # Two windows with errors of 0.1 and 0.2, which double at the second frame.
    assert rows["value"].tolist() == pytest.approx([0.15, 0.3])
    assert rows["value_low"].tolist() == pytest.approx([0.1, 0.2])
    assert rows["value_high"].tolist() == pytest.approx([0.2, 0.4])
    assert "another window / with the recorded ones 3.00 [3.00, 3.00]" in ratios(errors)
    assert "zero actions / with the recorded ones 2.00 [2.00, 2.00]" in ratios(errors)


def test_several_seeds_are_the_units(tmp_path):
    seeds = {seed: study.adaptation(tmp_path, "plain", seed, 1 + seed) for seed in range(2)}
    rows = by_horizon(read_errors(seeds).query("actions == 'true'"))
    assert rows["value"].tolist() == pytest.approx([0.225, 0.45])
    assert rows["value_low"].tolist() == pytest.approx([0.15, 0.3])


def test_figure_shows_every_model_and_notes_the_ratios(tmp_path):
    runs = [study.adaptation(tmp_path, "contextwm"), study.adaptation(tmp_path, "plain")]
    draw("adaptation", runs, tmp_path / "a", META)
    for _, style in CONDITIONS.values():
        assert shows(tmp_path / "a", style.colour)
    assert_embedded(tmp_path / "a.pdf")
    about = facts(tmp_path / "a")
    assert about["runs"] == ["adapt/sphere/none/contextwm/0", "adapt/sphere/none/plain/0"]
    assert "recorded episodes of sphere" in about["caption"]
    assert [note.partition(":")[0] for note in about["notes"]] == [
        "ContextWM, none (scratch)",
        "Plain WM, none (scratch)",
    ]


def test_unusable_runs_are_errors(tmp_path):
    one = study.adaptation(tmp_path / "one", "plain")
    two = study.adaptation(tmp_path / "two", "contextwm", recorded="blob")
    with pytest.raises(UserError, match="on different recordings cannot be mixed: blob, sphere"):
        draw("adaptation", [one, two], tmp_path / "a", META)
    path = one / "action_errors.csv"
    path.write_text("".join(path.open().readlines()[:3]))
    with pytest.raises(UserError, match="needs rows of true, shuffled, none actions"):
        draw("adaptation", [one], tmp_path / "a", META)
