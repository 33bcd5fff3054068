"""Adaptation on recorded episodes: actions help, resuming, rewards, weights and errors."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from recordings import bring_in, episode, play, write_npz
from squares import ROOT
from squares import store as silent_store

import cwm
from cwm import config
from cwm.agent import Agent
from cwm.commands.run_spec import run_spec
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir
from cwm.models import ActionModel
from cwm.train import offline
from cwm.train.adapt import adapt
from cwm.train.pretrained import load_pretrained
from cwm.world.openloop import predict_with_actions

SMALL = ("batch=4", "length=5", "updates=6", "observed=2", "log_every=1", "heldout_every=3")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def recorded(tmp_path, actions=2, rewards=True):
    """Ten short episodes, some of them held out."""
    for number in range(10):
        arrays = episode(number, actions=actions)
        if not rewards:
            del arrays["reward"]
        write_npz(tmp_path / f"source/{number}.npz", **arrays)
    bring_in(tmp_path / "source", tmp_path / "store", heldout=0.4)
    return tmp_path / "store/store.json"


def teach(store, out, model="contextwm", scale="smoke", pretrained=None, sets=SMALL):
    files = [ROOT / f"scale/{scale}.yaml", ROOT / f"model/{model}.yaml"]
    cfg = config.load(files, [f"adapt.{word}" for word in sets])
    inputs = {"recorded": store} | ({"pretrained": pretrained} if pretrained else {})
    spec = run_spec("adapt", "own", cfg, files, inputs, 0)
    with RunDir(spec, out, 0.0) as run:
        adapt(cfg.runtime, cfg.model, cfg.finetune.agent, cfg.adapt, store, pretrained, run)
    return out


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def test_true_actions_predict_better_than_shuffled_ones(tmp_path):
    """On random episodes of toy/sphere, from scratch (measured: 0.034 against 0.042)."""
    play(tmp_path / "source", 40)
    bring_in(tmp_path / "source", tmp_path / "store", heldout=0.25)
    sets = ("batch=8", "length=10", "updates=100", "observed=3", "heldout_every=100")
    store = tmp_path / "store/store.json"
    run = teach(store, tmp_path / "run", "dreamer", "laptop", sets=sets)
    last = metrics(run)[-1]
    assert last["heldout/true"] < 0.9 * last["heldout/shuffled"]
    assert last["heldout/true"] < last["heldout/none"]
    errors = pd.read_csv(run / "action_errors.csv")
    assert list(errors) == ["clip", "actions", "ahead", "mse", "mse_moving"]
    assert errors["ahead"].unique().tolist() == [1, 2, 3, 4, 5, 6, 7]
    means = errors.groupby("actions")["mse"].mean()
    assert means["true"] == pytest.approx(last["heldout/true"], rel=1e-5)


def test_interrupted_run_equals_uninterrupted_run(tmp_path, monkeypatch):
    store = recorded(tmp_path)
    straight = teach(store, tmp_path / "straight")
    reseed, stops = offline.reseed, [2, 5]

    def interrupted(seed, *parts):
        if stops and parts == ("update", stops[0]):
            del stops[0]
            raise KeyboardInterrupt
        reseed(seed, *parts)

    monkeypatch.setattr(offline, "reseed", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            teach(store, tmp_path / "stopped")
    stopped = teach(store, tmp_path / "stopped")
    for name in ("weights.safetensors", "metrics.jsonl", "action_errors.csv"):
        assert (stopped / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.parametrize("rewards", [True, False])
def test_reward_losses_are_left_out_without_rewards(tmp_path, rewards):
    run = teach(recorded(tmp_path, rewards=rewards), tmp_path / "run")
    logged = metrics(run)[0]
    assert ("train/reward" in logged) == ("train/aux_reward" in logged) == rewards
    assert {"train/image", "train/kl", "train/encoder_norm", "train/world_norm"} <= logged.keys()
    about = json.loads((run / "run.json").read_text())
    assert (about["recorded"], about["dataset"], about["model"]) == ("own", "none", "contextwm")


def test_weights_load_as_a_model_that_predicts_as_the_errors_say(tmp_path):
    run = teach(recorded(tmp_path, actions=3), tmp_path / "run")
    model = cwm.load(run)
    assert type(model) is ActionModel and model.action_dim == 3
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(2, 3, 64, 64, 3), dtype=np.uint8)
    past, future = rng.uniform(-1, 1, (2, 2, 3)), rng.uniform(-1, 1, (2, 4, 3))
    imagined, rewards = model.imagine(frames, past, future)
    assert rewards.shape == (2, 4)
    led = np.concatenate([np.zeros((2, 1, 3)), past], 1)  # the action that led to each frame
    tensors = (torch.as_tensor(x, dtype=torch.float32) for x in (led, future))
    image = predict_with_actions(model.world, torch.as_tensor(frames), *tensors)
    expected = (image.clamp(0, 1) * 255).round().byte().movedim(2, -1).numpy()
    np.testing.assert_array_equal(imagined, expected)
    with pytest.raises(UserError, match="this model has no policy"):
        model.dream(frames[:, :1]).act()


def test_fine_tuning_and_adaptation_start_from_adapted_weights_with_as_many_actions(tmp_path):
    weights = teach(recorded(tmp_path), tmp_path / "run") / "weights.json"
    again = teach(tmp_path / "store/store.json", tmp_path / "again", pretrained=weights)
    assert json.loads((again / "run.json").read_text())["dataset"] == "none"
    cfg = config.load([ROOT / "scale/smoke.yaml", ROOT / "model/contextwm.yaml"])
    agent = Agent(cfg.model, cfg.finetune.agent, 2)
    load_pretrained(agent.world, weights)
    for mine, theirs in zip(
        agent.world.parameters(), cwm.load(weights).world.parameters(), strict=True
    ):
        assert (mine == theirs).all()
    with pytest.raises(UserError, match=r"is for actions of 2 values; actions of 4 values are"):
        load_pretrained(Agent(cfg.model, cfg.finetune.agent, 4).world, weights)


def test_unusable_inputs_are_errors(tmp_path):
    (tmp_path / "videos").mkdir()
    silent = silent_store(tmp_path / "videos")
    with pytest.raises(UserError, match=r"store.json holds videos without actions; `cwm import`"):
        teach(silent, tmp_path / "run")
    store = recorded(tmp_path)
    with pytest.raises(UserError, match=r"adapt.observed 5 must be less than length 5"):
        teach(store, tmp_path / "run", sets=("length=5", "observed=5"))
    with pytest.raises(UserError, match="has no heldout clip of 8 frames"):
        teach(store, tmp_path / "run", sets=())
    bring_in(tmp_path / "source", tmp_path / "one", heldout=0.01)
    with pytest.raises(UserError, match="has one held-out episode of 5 frames, and shuffled"):
        teach(tmp_path / "one/store.json", tmp_path / "run")
