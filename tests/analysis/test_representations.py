import numpy as np
import pytest
import study
from pictures import META, assert_embedded, facts, shows

from cwm.analysis.draw import draw
from cwm.analysis.representations import LABELS, Probe, embed, probe
from cwm.infra.errors import UserError


def planted(clips, heldout, strength):
    rng = np.random.default_rng(3)
    label = np.repeat([0, 1], clips)
    features = rng.normal(size=(2 * clips, 40))
    features[:, 7] += strength * label
    return features, label, np.tile(np.arange(clips) < heldout, 2)


@pytest.mark.parametrize("heldout", [2, 30])
def test_a_probe_finds_a_planted_direction_and_not_noise(heldout):
    found = probe(*planted(100, heldout, 5.0))
    assert (found.clips, found.folded) == ((60, False) if heldout == 30 else (200, True))
    assert found.interval[0] > 0.85
    low, high = probe(*planted(100, heldout, 0.0)).interval
    assert low < 0.5 < high


def test_a_probe_is_scored_on_held_out_clips():
    """With swapped labels of held-out clips, it classifies nearly none correctly."""
    features, label, heldout = planted(100, 30, 9.0)
    assert probe(features, np.where(heldout, 1 - label, label), heldout).accuracy < 0.1


def test_wilson_interval_by_hand():
    """A textbook example: 8 successes in 10."""
    assert Probe(8, 10, folded=False).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_one_clip_of_a_label_is_refused():
    with pytest.raises(UserError, match="needs two clips of each label"):
        probe(np.zeros((3, 2)), np.array([0, 0, 1]), np.zeros(3, bool))


def test_the_embedding_is_deterministic():
    features = planted(10, 2, 9.0)[0]
    np.testing.assert_array_equal(embed(features), embed(features))


def test_the_figure_shows_labels_and_notes_accuracies(tmp_path):
    runs = [
        study.represent(tmp_path, "contextwm"),
        study.represent(tmp_path, "plain", planted=False),
    ]
    draw("representations", runs, tmp_path / "r", META)
    for _, colour in LABELS:
        assert shows(tmp_path / "r", colour)
    assert_embedded(tmp_path / "r.pdf")
    ours, folds, plain, _ = facts(tmp_path / "r")["notes"]
    assert ours.startswith("ContextWM, something: the probe classifies 9")
    assert "only 2 and 2 clips of the labels are held out" in folds
    assert int(plain.split("classifies ")[1].split("%")[0]) < 70
