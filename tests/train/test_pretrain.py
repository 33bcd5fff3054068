"""Pre-training: resuming, held-out errors, and loading the weights in fine-tuning."""

import json

import numpy as np
import pytest
from squares import ROOT, settings, store, watch

from cwm import config
from cwm.commands.run_spec import run_spec
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir
from cwm.train import offline as module
from cwm.train.finetune import FinetuneLoop, finetune

RESULTS = ("weights.safetensors", "metrics.jsonl")


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A store of ten clips of moving squares, the last two held out."""
    monkeypatch.chdir(tmp_path)
    return store(tmp_path)


def test_interrupted_run_equals_uninterrupted_run(clips, tmp_path, monkeypatch):
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


@pytest.mark.parametrize("group", ["world", "optimizer"])
def test_resume_refuses_checkpoint_of_another_model(clips, tmp_path, monkeypatch, group):
    checkpoint = RunDir.checkpoint

    def wrong(self, step, tensors):
        checkpoint(self, step, tensors | {group: {}})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunDir, "checkpoint", wrong)
        watch(clips, tmp_path / "run")
    with pytest.raises(UserError, match=r"checkpoint .*/000000001 is damaged .* is missing"):
        watch(clips, tmp_path / "run")


def test_loss_decreases_and_heldout_errors_are_logged(clips, tmp_path):
    sets = ["pretrain.updates=40", "pretrain.optimizer.lr=3e-3", "pretrain.heldout_every=20"]
    run = watch(clips, tmp_path / "run", "plain", sets)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    train = [line["train/image"] for line in lines if "train/image" in line]
    assert train[-1] < 0.5 * train[0]
    heldout = [line for line in lines if "heldout/image" in line]
    assert [line["step"] for line in heldout] == [20, 40]
    # A square of 14 pixels moves by 5 in each frame, and errs at its old and its new position.
    shifts = np.minimum(5 * np.arange(1, 5), 14)
    wrong = 2 * 14 * shifts.sum() / (4 * 64 * 64) * (160 / 255) ** 2
    assert [line["heldout/repeat"] for line in heldout] == pytest.approx([wrong] * 2)
    assert heldout[-1]["heldout/repeat_moving"] == pytest.approx((160 / 255) ** 2)
    assert 0 < heldout[-1]["heldout/prediction"] < 1


def test_weights_fit_finetuning_of_the_same_model_only(clips, tmp_path):
    weights = watch(clips, tmp_path / "run") / "weights.json"

    def tune(model):
        files = [ROOT / "suite" / "toy.yaml", *settings(model)]
        cfg = config.load(files, task="blob")
        inputs = {"pretrained": weights}
        spec = run_spec("finetune", "toy/blob", cfg, files, inputs, 0)
        assert spec.labels["dataset"] == "squares"
        with RunDir(spec, tmp_path / model, 9.0) as run:
            finetune(FinetuneLoop(cfg.runtime, cfg.model, cfg.env, cfg.finetune, weights, run))

    tune("contextwm")
    with pytest.raises(UserError, match=r"does not fit the model: vision: .*context"):
        tune("plain")
    with pytest.raises(UserError, match=r"model\.stacked is false, but .* is for a stacked"):
        tune("dreamer")


def test_dreamer_cannot_be_pretrained(clips, tmp_path):
    with pytest.raises(UserError, match="cannot be pre-trained"):
        watch(clips, tmp_path / "run", "dreamer")
