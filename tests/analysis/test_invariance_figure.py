"""The invariance figure: estimates by hand, and what it says."""

import pytest
import study
from pictures import META, assert_embedded, facts, shows

from cwm.analysis.draw import draw
from cwm.analysis.invariance_figure import estimates
from cwm.analysis.style import MODELS
from cwm.infra.errors import UserError


def test_both_directions_of_a_pair_of_looks_are_one_unit(tmp_path):
    """Two units, 0.2 and 0.3: the interval ends at the units themselves."""
    found = estimates({0: study.invariance(tmp_path, "contextwm", pair=0.7)}, "trained")
    assert found["gain"] == pytest.approx((0.25, 0.2, 0.3))
    assert found["closer"] == (1, 1, 1)


def test_several_seeds_are_the_units(tmp_path):
    seeds = {s: study.invariance(tmp_path, "plain", 0.4 + 0.1 * s, s) for s in range(2)}
    assert estimates(seeds, "trained")["gain"] == pytest.approx((0, -0.05, 0.05))


def test_figure_shows_both_models_and_notes_their_values(tmp_path):
    runs = [study.invariance(tmp_path, "contextwm", 0.7), study.invariance(tmp_path, "plain", 0.3)]
    draw("invariance", runs, tmp_path / "i", META)
    for model in ("contextwm", "plain"):
        assert shows(tmp_path / "i", MODELS[model][1])
    assert_embedded(tmp_path / "i.pdf")
    ours, plain = facts(tmp_path / "i")["notes"]
    assert ours.startswith("ContextWM, something: gain trained 0.25 [0.20, 0.30], closer trained 1")
    assert "gain trained -0.15" in plain and "closer untrained 0.50" in plain


def test_a_file_without_the_trained_model_is_an_error(tmp_path):
    folder = study.invariance(tmp_path, "plain", 0.3)
    path = folder / "invariance.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[2::2]]))
    with pytest.raises(UserError, match="has no rows of the trained model"):
        estimates({0: folder}, "trained")
