"""Time-averaged features of clips with two labels."""

import contextlib

import numpy as np
import pytest
import torch
from squares import begin, store, watch

from cwm.evaluate.represent import represent
from cwm.infra.checkpoint import load_parts, load_weights
from cwm.infra.errors import UserError
from cwm.nn.batch import clip_batch
from cwm.videos.store import ClipStore
from cwm.world.action_free import ActionFreeModel

LABELS = ("Pushing something from left to right", "lifting", "pushing-right-to-left")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A clip store with labels, and the weights of a model that was trained on it."""
    folder = tmp_path_factory.mktemp("pretrained")
    with contextlib.chdir(folder):
        clips = store(folder, LABELS)
        return clips, watch(clips, folder / "run") / "weights.json"


@pytest.fixture
def features(pretrained, tmp_path, monkeypatch):
    """Runs the stage with some settings; returns the settings and the arrays."""
    monkeypatch.chdir(tmp_path)
    inputs = dict(zip(("clips", "weights"), pretrained, strict=True))

    def run_stage(*sets):
        cfg, run = begin("represent", tmp_path / "represent", inputs, sets=sets)
        with run:
            represent(cfg.runtime, cfg.model, cfg.pretrain, cfg.represent, *pretrained, run)
        return cfg, dict(np.load(tmp_path / "represent/features.npz"))

    return run_stage


def test_features_are_time_averaged_posterior_modes(features, pretrained, tmp_path):
    clips, weights = pretrained
    cfg, found = features("represent.length=8")
    assert found["labels"].tolist() == [LABELS[0], LABELS[2]]
    assert found["label"].tolist() == [0] * 4 + [1] * 3  # clips 0 3 6 9 and 2 5 8
    assert found["heldout"].tolist() == [False] * 3 + [True] + [False] * 2 + [True]
    world = ActionFreeModel(cfg.model, cfg.pretrain.world).eval()
    tensors, _ = load_weights(weights)
    load_parts({"vision": world.vision, "rssm": world.rssm}, tensors, tmp_path)
    batch = clip_batch(torch.as_tensor(ClipStore.open(clips).read(3, 1, 8))[None])
    with torch.no_grad():
        embed = world.vision.embed(world.vision.pixels(batch.image))
        start = world.rssm.initial(1, embed)
        post, _ = world.rssm.observe(embed, None, batch.is_first, start, torch.zeros(()))
    np.testing.assert_allclose(found["features"][1], post.feat.mean(1)[0], atol=1e-5)
    assert found["untrained"].shape == found["features"].shape
    assert np.abs(found["untrained"] - found["features"]).max() > 1e-3


def test_number_of_clips_is_limited(features):
    _, found = features("represent.length=8", "represent.clips=2")
    assert found["label"].tolist() == [0, 0, 0, 1, 1, 1]


def test_missing_or_ambiguous_labels_are_named(features):
    with pytest.raises(UserError, match=r"'pulling' must match one label of .*, not 0: Pushing"):
        features("represent.labels=[pulling, lifting]")
    with pytest.raises(UserError, match=r"'push' must match one label of .*, not 2: Pushing"):
        features("represent.labels=[push, lifting]")
    with pytest.raises(UserError, match="no clip of 25 frames is labelled 'Pushing"):
        features()
