"""Invariance: agreement of latents by hand, and a run on shadow pairs."""

import contextlib

import numpy as np
import pandas as pd
import pytest
from squares import begin, store, watch

from cwm.evaluate.invariance import agreement, compare, invariance
from cwm.infra.errors import UserError

MOTION = np.array(["push", "lift", "push", "lift"])
LOOK = np.array(["red", "red", "blue", "blue"])


def one_hot(states):
    """Posteriors (N, 1, 1, 3) that are certain."""
    return np.eye(3)[states][:, None, None]


def test_agreement_is_the_shared_probability_mass():
    probability = np.array([[[[0.5, 0.5, 0]]], [[[0.25, 0.25, 0.5]]], [[[0, 0, 1.0]]]])
    expected = [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]
    np.testing.assert_allclose(agreement(probability), expected)


@pytest.mark.parametrize(
    ("states", "pair", "others", "closer"),
    [
        ([0, 1, 0, 1], 1, 0, 1),  # latents follow the motion
        ([0, 0, 1, 1], 0, 1, 0),  # latents follow the look
        ([2, 2, 2, 2], 1, 1, 0.5),  # latents follow neither
        ([0, 1, 2, 2], 0, 0, 0.5),
    ],
)
def test_scores_of_latents_that_follow_motion_look_or_neither(states, pair, others, closer):
    rows = list(compare(agreement(one_hot(states)), MOTION, LOOK, "shadows"))
    assert [row[:3] for row in rows][:2] == [("push", "red", "blue"), ("lift", "red", "blue")]
    assert rows[0][3:] == (pair, others, closer)


def test_clips_without_a_shadow_are_an_error():
    with pytest.raises(UserError, match="shadows has no shadow pair; each look needs two motions"):
        list(compare(np.eye(2), MOTION[:2], LOOK[:2], "shadows"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Ten clips: five motions in two looks; and the weights of a model that was trained on them."""
    folder = tmp_path_factory.mktemp("pretrained")
    with contextlib.chdir(folder):
        clips = store(folder, ("blue", "red"))
        rows = {"file": [f"x/motion-{i // 2}.mp4" for i in range(10)], "status": ["ok"] * 10}
        pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
        return clips, watch(clips, folder / "run") / "weights.json"


def run_stage(clips, weights, out, *sets):
    cfg, run = begin("invariance", out, {"clips": clips, "weights": weights}, sets=sets)
    with run:
        invariance(cfg.runtime, cfg.model, cfg.pretrain, cfg.invariance, clips, weights, run)
    return pd.read_csv(out / "invariance.csv")


def test_run_compares_every_clip_with_its_shadow(pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = run_stage(*pretrained, tmp_path / "run", "invariance.length=8")
    assert table["model"].value_counts().to_dict() == {"trained": 10, "untrained": 10}
    assert set(zip(table["look"], table["shadow"], strict=True)) == {
        ("blue", "red"),
        ("red", "blue"),
    }
    assert table["pair"].between(0, 1).all() and table["others"].between(0, 1).all()
    trained, untrained = (table[table["model"] == name] for name in ("trained", "untrained"))
    assert (trained["pair"].to_numpy() != untrained["pair"].to_numpy()).all()
    # The agreement is symmetric, so both directions of a pair are equal.
    assert trained.groupby("motion")["pair"].nunique().eq(1).all()


def test_too_short_clips_are_an_error(pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="motion motion-0 has 10 frames, not 25"):
        run_stage(*pretrained, tmp_path / "run")
