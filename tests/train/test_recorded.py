"""Recorded episodes as the first content of the replay buffer."""

import json

import numpy as np
import pandas as pd
import pytest
from test_finetune import RESULTS, content, settings

from cwm import config
from cwm.commands.run_spec import run_spec
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir
from cwm.recorded.build import import_episodes
from cwm.train.finetune import FinetuneLoop, finetune
from cwm.videos.datasets import DatasetConfig

LENGTHS = [12, 30, 9, 5, 40, 8]  # frames; a window needs 9


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def recorded(tmp_path, actions=2, rewards=True):
    """A store of six episodes, all for training; the grey of a frame is 30 * episode + t."""
    rng = np.random.default_rng(0)
    (tmp_path / "source").mkdir()
    for number, length in enumerate(LENGTHS):
        grey = (30 * number + np.arange(length)).astype(np.uint8)
        image = np.broadcast_to(grey[:, None, None, None], (length, 64, 64, 3))
        action = rng.uniform(-1, 1, (length - 1, actions)).astype(np.float32)
        reward = {"reward": np.arange(1, length, dtype=np.float32)} if rewards else {}
        np.savez(tmp_path / f"source/{number}.npz", image=image, action=action, **reward)
    cfg = DatasetConfig(min_frames=5, heldout=0)
    import_episodes("own", cfg, tmp_path / "source", tmp_path / "store")
    return tmp_path / "store/store.json"


def begin(store, out, what="toy/sphere", sets=()):
    files, _ = settings(model="dreamer")
    cfg = config.load(files, sets, what.partition("/")[2])
    spec = run_spec("finetune", what, cfg, files, {"recorded": store} if store else {}, 0)
    return cfg, RunDir(spec, out, 0.0)


def learn(store, out, sets=()):
    cfg, run = begin(store, out, sets=sets)
    with run:
        finetune(FinetuneLoop(cfg.runtime, cfg.model, cfg.env, cfg.finetune, None, run, store))
    return out


def test_buffer_begins_with_the_recorded_episodes_that_fill_a_window(tmp_path):
    store = recorded(tmp_path)
    cfg, run = begin(store, tmp_path / "run")
    with run:
        loop = FinetuneLoop(cfg.runtime, cfg.model, cfg.env, cfg.finetune, None, run, store)
        loop.close()
    assert [entries for _, _, entries in loop.replay.episodes] == [12, 30, 9, 40]
    assert loop.episodes == 0  # of the environment
    image, action, reward = (x[:12] for x in loop.replay.ring)
    assert (image == np.arange(12)[:, None, None, None]).all()
    assert (action[0] == 0).all() and reward.tolist() == [0, *range(1, 12)]
    original = np.load(tmp_path / "source/0.npz")["action"]
    np.testing.assert_array_equal(action[1:], original)


def test_run_with_recorded_episodes_resumes_and_differs_from_one_without(tmp_path, monkeypatch):
    store = recorded(tmp_path)
    expected = content(learn(store, tmp_path / "whole"), *RESULTS)
    collect, stops = FinetuneLoop.collect, [17, 59]

    def interrupted(self, policy):
        if stops and self.step == stops[0]:
            del stops[0]
            raise KeyboardInterrupt
        return collect(self, policy)

    monkeypatch.setattr(FinetuneLoop, "collect", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            learn(store, tmp_path / "resumed")
    assert content(learn(store, tmp_path / "resumed"), *RESULTS) == expected
    without = content(learn(None, tmp_path / "without"), *RESULTS)
    assert without["weights.safetensors"] != expected["weights.safetensors"]
    about = json.loads((tmp_path / "resumed/run.json").read_text())
    assert "recorded" in about["inputs"]
    scores = pd.read_csv(tmp_path / "resumed/scores.csv").query("split == 'train'")
    assert scores["episode"].tolist() == [0, 1, 2, 3]  # those of the environment


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actions": 3}, "has actions of 3 values, and toy/sphere needs 2"),
        ({"rewards": False}, "has no rewards, from which an agent learns its task"),
    ],
)
def test_episodes_that_do_not_fit_the_task_are_an_error(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        learn(recorded(tmp_path, **options), tmp_path / "run")


def test_episodes_that_are_all_too_short_are_an_error(tmp_path):
    with pytest.raises(UserError, match="dataset own has no train clip of 51 frames"):
        learn(recorded(tmp_path), tmp_path / "run", ["finetune.length=50"])
