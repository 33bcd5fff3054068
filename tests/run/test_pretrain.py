"""Pre-training: a stop changes nothing, the parts fit fine-tuning, predictions are scored right."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cwm import config
from cwm.data.clips import INDEX
from cwm.data.files import sha256
from cwm.data.shards import shard_name
from cwm.errors import UserError
from cwm.run import pretrain as module
from cwm.run.finetune import Finetuning, finetune
from cwm.run.folder import Run
from cwm.run.identity import task
from cwm.run.predict import PredictConfig, predict_clips, write_errors

ROOT = Path(__file__).parents[2] / "config"
RESULTS = ("weights.safetensors", "metrics.jsonl")


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A store of ten clips of moving squares, the last held out, made without any video."""
    monkeypatch.chdir(tmp_path)
    frames = np.full((10, 10, 64, 64, 3), 40, np.uint8)
    for clip, t in np.ndindex(10, 10):
        frames[clip, t, 5 * t : 5 * t + 14, 4 * clip : 4 * clip + 14] = 200
    np.save(tmp_path / shard_name(0), frames.reshape(100, 64, 64, 3))
    index = np.zeros(10, INDEX)
    index["offset"], index["length"] = np.arange(10) * 10, 10
    index["split"][-1] = 1
    np.save(tmp_path / "index.npy", index)
    info = {"dataset": "squares", "labels": [], "frame_shape": [64, 64, 3]}
    info |= {"frame_bytes": 64 * 64 * 3, "shards": {shard_name(0): 100}}
    info["sha256"] = {"index": sha256(tmp_path / "index.npy"), "manifest": "5ha"}
    (tmp_path / "store.json").write_text(json.dumps(info))
    return tmp_path / "store.json"


def settings(model="contextwm"):
    return [ROOT / folder / f"{n}.yaml" for folder, n in (("scale", "smoke"), ("model", model))]


def watch(clips, out, model="contextwm", sets=()):
    cfg = config.load(settings(model), sets)
    sections = ("runtime", "model", "pretrain")
    identity = task("pretrain", "squares", cfg, sections, settings(model), {"clips": clips})
    with Run(identity, out, 0.0) as run:
        module.pretrain(cfg.runtime, cfg.model, cfg.pretrain, clips, run)
    return out


def test_a_run_that_is_stopped_ends_the_same(clips, tmp_path, monkeypatch):
    straight = watch(clips, tmp_path / "straight")
    reseed, stops = module.reseed, iter((3, 5))
    stop = next(stops)

    def interrupted(seed, *parts):
        nonlocal stop
        if parts == ("update", stop):
            stop = next(stops, None)
            raise KeyboardInterrupt
        reseed(seed, *parts)

    monkeypatch.setattr(module, "reseed", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            watch(clips, tmp_path / "stopped")
    stopped = watch(clips, tmp_path / "stopped")
    for name in RESULTS:
        assert (stopped / name).read_bytes() == (straight / name).read_bytes()


def test_it_fits_and_reports_held_out_clips(clips, tmp_path):
    sets = ["pretrain.updates=40", "pretrain.optimizer.lr=3e-3", "pretrain.heldout_every=20"]
    run = watch(clips, tmp_path / "run", "plain", sets)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    train = [line["train/image"] for line in lines if "train/image" in line]
    assert train[-1] < 0.5 * train[0]
    assert [line["step"] for line in lines if "heldout/image" in line] == [20, 40]


def test_the_weights_fit_fine_tuning_of_the_same_model_only(clips, tmp_path):
    weights = watch(clips, tmp_path / "run") / "weights.json"

    def tune(model):
        files = [ROOT / "suite" / "toy.yaml", *settings(model)]
        cfg = config.load(files, task="blob")
        sections = ("runtime", "model", "env", "finetune")
        inputs = {"pretrained": weights}
        identity = task("finetune", "toy/blob", cfg, sections, files, inputs, 0)
        assert identity.labels["dataset"] == "squares"
        with Run(identity, tmp_path / model, 9.0) as run:
            finetune(Finetuning(cfg.runtime, cfg.model, cfg.env, cfg.finetune, weights, run))

    tune("contextwm")
    with pytest.raises(UserError, match=r"does not fit the model: vision: .*context"):
        tune("plain")
    with pytest.raises(UserError, match=r"stacked model, but model\.stacked is false"):
        tune("dreamer")


def test_predictions_begin_from_the_observed_frames(clips, tmp_path):
    weights = watch(clips, tmp_path / "run") / "weights.json"
    cfg = config.load(settings())
    sections, inputs = ("model", "pretrain", "predict"), {"clips": clips, "weights": weights}
    identity = task("predict", "squares", cfg, sections, settings(), inputs)
    with Run(identity, tmp_path / "predict", 9.0) as run:
        predict_clips(cfg.runtime, cfg.model, cfg.pretrain, cfg.predict, clips, weights, run)
    errors = pd.read_csv(tmp_path / "predict" / "errors.csv")
    assert list(errors["phase"]) == ["observed"] * 5 + ["predicted"] * 3
    arrays = np.load(tmp_path / "predict" / "predictions.npz")
    assert arrays["truth"].shape == arrays["model"].shape == (1, 8, 64, 64, 3)
    np.testing.assert_array_equal(arrays["context"], arrays["truth"][:, 4])


def test_errors_by_hand(tmp_path):
    truth = np.zeros((1, 3, 2, 2, 3), np.float32)
    truth[0, 2, 0, 0] = 0.6  # one pixel of the last frame moves
    model = np.full_like(truth, 0.1)
    write_errors(tmp_path / "errors.csv", truth, model, PredictConfig(observed=2))
    errors = pd.read_csv(tmp_path / "errors.csv")
    assert list(errors["phase"]) == ["observed", "observed", "predicted"]
    assert errors["mse"].tolist() == pytest.approx([0.01, 0.01, (3 * 0.01 + 0.25) / 4])
    assert errors["mse_moving"].tolist() == pytest.approx([np.nan, np.nan, 0.25], nan_ok=True)
    assert errors["repeat_mse"].tolist() == pytest.approx([0, 0, 0.36 / 4])
    assert errors["repeat_mse_moving"].tolist() == pytest.approx([np.nan] * 2 + [0.36], nan_ok=True)


def test_dreamer_is_not_pre_trained(clips, tmp_path):
    with pytest.raises(UserError, match="no part that learns from videos"):
        watch(clips, tmp_path / "run", "dreamer")
