"""Video prediction: errors, SSIM, attention maps and recomposed clips."""

import numpy as np
import pandas as pd
import pytest
import torch
from squares import begin, settings, store, watch

from cwm import config
from cwm.evaluate import predict as module
from cwm.evaluate.predict import (
    compose,
    decode,
    moving_attention,
    predict_clips,
    tokens_with,
    write_errors,
)
from cwm.evaluate.ssim import ssim, within
from cwm.nn.batch import clip_batch
from cwm.videos.store import ClipStore
from cwm.world.action_free import ActionFreeModel
from cwm.world.openloop import attention, encode_context, predict, rollout_features


@pytest.fixture
def clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return store(tmp_path)


def world(model="contextwm"):
    cfg = config.load(settings(model))
    torch.manual_seed(0)
    return ActionFreeModel(cfg.model, cfg.pretrain.world).eval()


def some(clips):
    return clip_batch(torch.as_tensor(ClipStore.open(clips).windows(3, 8, "train", 1)))


def test_predict_clips_writes_errors_and_images(clips, tmp_path, monkeypatch):
    weights = watch(clips, tmp_path / "run") / "weights.json"
    sets = ["predict.clips=3", "predict.shown=2"]
    inputs = {"clips": clips, "weights": weights}
    cfg, run = begin("predict", tmp_path / "predict", inputs, sets=sets)
    images = []
    decode = module.decode
    monkeypatch.setattr(module, "decode", lambda *of: images.append(decode(*of)) or images[-1])
    with run:
        predict_clips(cfg.runtime, cfg.model, cfg.pretrain, cfg.predict, *inputs.values(), run)
    errors = pd.read_csv(tmp_path / "predict" / "errors.csv")
    assert list(errors["phase"]) == (["observed"] * 5 + ["predicted"] * 3) * 2  # clips
    truth = ClipStore.open(clips).windows(2, 8, "heldout", 0)
    mse = np.square(images[0] - truth / 255).mean((2, 3, 4))
    np.testing.assert_allclose(errors["mse"], mse.flatten(), rtol=1e-5)
    arrays = np.load(tmp_path / "predict" / "predictions.npz")
    np.testing.assert_array_equal(arrays["truth"], truth[:2])
    np.testing.assert_array_equal(arrays["context"], arrays["truth"][:, 4])
    np.testing.assert_array_equal(arrays["other"], [1, 0])
    assert arrays["model"].shape == arrays["recomposed"].shape == (2, 8, 64, 64, 3)
    moves = np.array([True] * 4 + [False] + [True] * 3)  # all but the last observed frame
    sums = arrays["attention"].sum((2, 3))
    np.testing.assert_allclose(sums, np.where(moves, 1, np.nan)[None].repeat(2, 0), rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "sets"),
    [("contextwm-concatenation", ()), ("contextwm", ("model.vision.network=cnn",))],
)
def test_decoder_without_attention_has_no_attention_map(clips, tmp_path, model, sets):
    weights = watch(clips, tmp_path / "run", model, sets) / "weights.json"
    inputs = {"clips": clips, "weights": weights}
    cfg, run = begin("predict", tmp_path / "predict", inputs, model, sets)
    with run:
        predict_clips(cfg.runtime, cfg.model, cfg.pretrain, cfg.predict, *inputs.values(), run)
    arrays = np.load(tmp_path / "predict" / "predictions.npz")
    assert {"context", "recomposed"} <= set(arrays)
    assert "attention" not in arrays


def test_errors_match_hand_computed_values(tmp_path):
    truth = np.zeros((1, 3, 12, 12, 3), np.float32)
    truth[0, 2, 5, 5] = 0.6  # one pixel of the last frame moves
    model = np.full_like(truth, 0.1)
    write_errors(tmp_path / "errors.csv", truth, model, observed=2)
    errors = pd.read_csv(tmp_path / "errors.csv")
    assert list(errors["phase"]) == ["observed", "observed", "predicted"]
    assert errors["mse"].tolist() == pytest.approx([0.01, 0.01, (143 * 0.01 + 0.25) / 144])
    assert errors["mse_moving"].tolist() == pytest.approx([np.nan, np.nan, 0.25], nan_ok=True)
    assert errors["repeat_mse"].tolist() == pytest.approx([0, 0, 0.36 / 144])
    assert errors["repeat_mse_moving"].tolist() == pytest.approx([np.nan] * 2 + [0.36], nan_ok=True)
    assert errors["ssim"].tolist()[:2] == pytest.approx([1e-4 / (0.01 + 1e-4)] * 2)
    assert errors["repeat_ssim"].tolist()[:2] == [1, 1]
    moving = errors["repeat_ssim_moving"].tolist()
    assert moving[:2] == pytest.approx([np.nan] * 2, nan_ok=True)
    assert moving[2] < errors["repeat_ssim"][2] < 1


def test_ssim_matches_scikit_image():
    """Values of scikit-image 0.26 with gaussian_weights=True and use_sample_covariance=False."""
    rng = np.random.default_rng(0)
    x = rng.random((16, 20, 3))
    y = np.clip(x + 0.2 * rng.standard_normal(x.shape), 0, 1)
    similar = ssim(x, y)
    assert similar.shape == within(x[..., 0]).shape == (6, 10)
    assert similar.mean() == pytest.approx(0.8142573826637668, abs=1e-12)
    assert similar[0, 0] == pytest.approx(0.8020559690141994, abs=1e-12)
    assert similar[5, 7] == pytest.approx(0.8238428023965955, abs=1e-12)


def test_ssim_matches_hand_computed_values():
    """Constant images differ in luminance only; equal images have SSIM 1."""
    black, grey = np.zeros((11, 11, 3)), np.full((11, 11, 3), 0.5)
    assert ssim(black, grey) == pytest.approx(1e-4 / (0.25 + 1e-4))
    assert ssim(grey, grey) == pytest.approx(1)


def test_attention_weights_match_torch_multihead_attention(clips):
    """torch.nn.MultiheadAttention with the same parameters gives the same mean weights."""
    model, batch = world(), some(clips)
    decoder, seen = model.vision.decoder, []
    layer = decoder.attention["16"]
    layer.register_forward_hook(lambda _, inputs, out: seen.append(inputs[:2]))
    maps = attention(decoder, rollout_features(model, batch, 5), encode_context(model, batch, 5))
    assert maps.shape == (3, 8, 256, 256)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 8, 256))
    ((x, context),) = seen
    official = torch.nn.MultiheadAttention(x.shape[1], 4, batch_first=True)
    official.in_proj_weight, official.in_proj_bias = layer.project_in.weight, layer.project_in.bias
    queries = x.flatten(2).mT + layer.query_position
    tokens = (context.flatten(2).mT + layer.context_position).repeat_interleave(8, 0)
    _, weights = official(queries, tokens, tokens)
    torch.testing.assert_close(maps.flatten(0, 1), weights)


def test_moving_attention_matches_hand_computed_values():
    weights = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]])[None, None]
    moving = np.zeros((1, 1, 4, 4), bool)
    moving[0, 0, 0, 0] = moving[0, 0, 3, 1] = True  # queries 0 and 2, of 2 by 2
    moves = tokens_with(moving, 2)
    np.testing.assert_array_equal(moves[0, 0], [[True, False], [True, False]])
    np.testing.assert_allclose(moving_attention(weights, moves)[0, 0], [[0.5, 0.25], [0.25, 0]])
    assert np.isnan(moving_attention(weights, moves & False)).all()


@torch.no_grad()
def test_recomposed_clip_has_own_dynamics_and_other_context(clips):
    model, batch = world(), some(clips)
    model.vision.decoder.attention["16"].norm.weight *= 1e4  # untrained attention has little effect
    torch.manual_seed(1)
    arrays = compose(model, batch, 5)
    np.testing.assert_array_equal(arrays["other"], [1, 2, 0])
    torch.manual_seed(1)
    latents = rollout_features(model, batch, 8)
    for name, image in (("decoded", batch.image), ("recomposed", batch.image[[1, 2, 0]])):
        expected = decode(model, latents, encode_context(model, clip_batch(image), 5))
        np.testing.assert_allclose(arrays[name], 255 * expected, atol=0.51)
    assert np.abs(arrays["recomposed"] - arrays["decoded"].astype(int)).mean() > 0.5


@torch.no_grad()
def test_plain_model_has_no_recomposed_clips(clips):
    assert set(compose(world("plain"), some(clips), 5)) == {"decoded"}


def test_predict_decodes_rollout_with_context(clips):
    model, batch, mode = world(), some(clips), torch.zeros(())
    whole = predict(model, batch, 5, mode)
    with torch.no_grad():
        parts = (
            model.vision.decoder(
                rollout_features(model, batch, 5, mode), encode_context(model, batch, 5)
            )
            + 0.5
        )
    torch.testing.assert_close(whole, parts)
