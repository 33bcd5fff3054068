"""`cwm evaluate`: episodes of a policy, their scores and a video."""

import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from cwm import config
from cwm.agent import Agent
from cwm.cli import app
from cwm.commands import episodes as module
from cwm.commands.dream import dream
from cwm.commands.episodes import run_episodes, summary
from cwm.infra.checkpoint import save_weights
from cwm.infra.errors import UserError
from cwm.infra.files import write_json, write_text
from cwm.videos.ffmpeg import Geometry, decode
from envs.errors import EnvError

SMALL = """
model:
  vision: {depth: 4, layers: 1}
  context: {dropout: 0}
  rssm: {deter: 32, hidden: 32, stoch: 4, classes: 4}
env: {render: fast, time_limit: 7}
finetune: {agent: {bonus: {beta: 0}}}
runtime: {device: cpu, precision: fp32}
"""


@pytest.fixture
def run(tmp_path):
    """The folder of a fine-tuning run on toy/blob."""
    write_text(tmp_path / "config.yaml", SMALL)
    cfg = config.load([tmp_path / "config.yaml"])
    torch.manual_seed(0)
    names = {"suite": "toy", "task": "blob"}
    agent = Agent(cfg.model, cfg.finetune.agent, 2)
    save_weights(tmp_path, agent.state_dict(), {"kind": "agent", **names})
    write_json(tmp_path / "run.json", {"stage": "finetune", "key": "k", **names})
    return tmp_path


def evaluate(*words):
    done = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("what", "policy"), [("toy/blob", "random"), ("metaworld/reach", "scripted")]
)
def test_first_episode_is_filmed_and_scores_are_printed(tmp_path, what, policy):
    film = tmp_path / "film.mp4"
    words = ["--policy", policy, "--episodes", 2, "--video", film, "--set", "env.time_limit=12"]
    output = evaluate(what, *words)
    success = r", success 0\.00 \[0\.00, 0\.00\]" if what.startswith("metaworld") else ""
    assert re.fullmatch(
        rf"2 episodes: return [\d.]+ \[[\d.]+, [\d.]+\]{success}, steps 12\.0 .*\n", output
    )
    clip = decode(film, Geometry())
    assert len(clip.frames) == 13 and (clip.width, clip.height) == (256, 256)
    assert np.abs(np.diff(clip.frames.astype(int), axis=0)).max() > 10


def test_an_episode_depends_on_seed_and_number_only(run, tmp_path):
    evaluate(run, "--episodes", 3, "--seed", 5, "--out", tmp_path / "one.csv")
    evaluate(run, "--episodes", 2, "--seed", 5, "--out", tmp_path / "two.csv")
    one, two = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one[:2], two)
    assert one["seed"].nunique() == 3 and (one["length"] == 7).all() and one["success"].isna().all()
    other = run_episodes(str(run), episodes=1, seed=6)
    assert other[0].outcome.return_ != one["return"][0]


def test_an_agent_acts_with_the_settings_of_its_run(run):
    """By the folder of the run, or by its weights on a task."""
    (by_folder,) = run_episodes(str(run), episodes=1)
    (by_weights,) = run_episodes("toy/blob", str(run / "weights.json"), episodes=1)
    assert by_folder == by_weights and by_folder.outcome.length == 7
    (random,) = run_episodes(str(run), "random", episodes=1)
    assert random.outcome.length == 7 and random.outcome.return_ != by_folder.outcome.return_
    with pytest.raises(UserError, match="was trained on toy/blob, which has another action space"):
        run_episodes("dmc/walker-walk", str(run / "weights.json"))


def test_summary_has_intervals_over_episodes():
    outcomes = [module.Outcome(r, s, 10, {}, []) for r, s in ((1.0, 0.0), (3.0, 1.0))]
    lines = summary([module.Episode(0, outcome) for outcome in outcomes])
    assert lines == [
        "return 2.00 [1.00, 3.00]",
        "success 0.50 [0.00, 1.00]",
        "steps 10.0 [10.0, 10.0]",
    ]


def test_the_gpu_is_claimed_before_the_environment_is_created(run, monkeypatch):
    """MuJoCo uses the GPU that is visible when an environment is created."""

    def no_gpu(runtime):
        raise UserError("no place on a GPU")

    monkeypatch.setattr(module, "set_up", no_gpu)
    monkeypatch.setattr(module, "make", lambda *_: pytest.fail("made"))
    with pytest.raises(UserError, match="no place on a GPU"):
        run_episodes(str(run))


@pytest.mark.parametrize("code", ["make: 'this:Zen'", "server: {command: 'zen {port}'}"])
def test_code_that_an_agents_settings_name_runs_only_with_trust(run, code, monkeypatch):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    write_text(run / "config.yaml", SMALL.replace("render: fast", f"render: fast, {code}"))
    write_json(run / "run.json", {"stage": "finetune", "key": "k", "suite": "my", "task": "own"})
    with pytest.raises(UserError, match=r"outside this package, .*[zZ]en.*; if you .* add --trust"):
        run_episodes(str(run))
    with pytest.raises(UserError, match=r"add --trust"):
        dream([str(run)], None, 0, show=False)
    assert "this" not in sys.modules
    with pytest.raises(EnvError, match=r"unknown factory in this 'Zen'|unknown suite 'my'"):
        run_episodes(str(run), trust=True)


def test_mistakes_are_one_line_errors(tmp_path):
    with pytest.raises(UserError, match=r"no scripted policy for toy/blob; .* driving, metaworld"):
        run_episodes("toy/blob", "scripted")
    with pytest.raises(UserError, match=r"must end in \.mp4"):
        run_episodes("toy/blob", video=tmp_path / "film.gif")
    with pytest.raises(UserError, match="unknown policy 'scriptd'; did you mean: scripted"):
        run_episodes("toy/blob", "scriptd")
    with pytest.raises(UserError, match="cannot read"):
        run_episodes("toy/blob", str(tmp_path / "none/weights.json"))
    with pytest.raises(UserError, match=r"run\.json"):
        run_episodes(str(tmp_path))
    write_text(tmp_path / "config.yaml", SMALL)
    save_weights(tmp_path, {"x": torch.zeros(1)}, {"kind": "action-free"})
    with pytest.raises(UserError, match="does not fit the model"):
        run_episodes("toy/blob", str(tmp_path / "weights.json"))
