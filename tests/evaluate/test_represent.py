"""Features of clips of two labels: whose they are, and that they are the model's own."""

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


@pytest.fixture
def clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return store(tmp_path, LABELS)


def features(clips, out, *sets):
    weights = out / "weights.json"
    if not weights.exists():
        watch(clips, out)
    inputs = {"clips": clips, "weights": weights}
    cfg, run = begin("represent", out / "represent", inputs, sets=sets)
    with run:
        represent(cfg.runtime, cfg.model, cfg.pretrain, cfg.represent, *inputs.values(), run)
    return cfg, dict(np.load(out / "represent/features.npz"))


def test_features_are_means_over_time_of_the_model_s_own(clips, tmp_path):
    cfg, found = features(clips, tmp_path / "run", "represent.length=8")
    assert found["labels"].tolist() == [LABELS[0], LABELS[2]]
    assert found["label"].tolist() == [0] * 4 + [1] * 3  # clips 0 3 6 9 and 2 5 8
    assert found["heldout"].tolist() == [False] * 3 + [True] + [False] * 2 + [True]
    world = ActionFreeModel(cfg.model, cfg.pretrain.world).eval()
    tensors, _ = load_weights(tmp_path / "run/weights.json")
    load_parts({"vision": world.vision, "rssm": world.rssm}, tensors, tmp_path)
    batch = clip_batch(torch.as_tensor(ClipStore.open(clips).read(3, 1, 8))[None])
    with torch.no_grad():
        embed = world.vision.embed(world.vision.pixels(batch.image))
        start = world.rssm.initial(1, embed)
        post, _ = world.rssm.observe(embed, None, batch.is_first, start, torch.zeros(()))
    np.testing.assert_allclose(found["features"][1], post.feat.mean(1)[0], atol=1e-5)
    assert found["untrained"].shape == found["features"].shape
    assert np.abs(found["untrained"] - found["features"]).max() > 1e-3


def test_no_more_clips_than_asked_for(clips, tmp_path):
    _, found = features(clips, tmp_path / "run", "represent.length=8", "represent.clips=2")
    assert found["label"].tolist() == [0, 0, 0, 1, 1, 1]


def test_labels_that_are_not_there_are_named(clips, tmp_path):
    with pytest.raises(UserError, match=r"0 labels of .* match 'pulling', not one: Pushing"):
        features(clips, tmp_path / "run", "represent.labels=[pulling, lifting]")
    with pytest.raises(UserError, match=r"2 labels of .* match 'push', not one"):
        features(clips, tmp_path / "run", "represent.labels=[push, lifting]")
    with pytest.raises(UserError, match="no clip of 25 frames is labelled 'Pushing"):
        features(clips, tmp_path / "run")
