"""Videos of episodes: encoded, and decoded again."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cwm import config
from cwm.agent import Agent
from cwm.cli import app
from cwm.commands import play as module
from cwm.commands.play import play
from cwm.infra.checkpoint import save_weights
from cwm.infra.errors import UserError
from cwm.infra.files import write_text
from cwm.videos.ffmpeg import Geometry, decode

SMALL = """
model:
  vision: {depth: 4, layers: 1}
  context: {dropout: 0}
  rssm: {deter: 32, hidden: 32, stoch: 4, classes: 4}
env: {render: fast, time_limit: 7}
finetune: {agent: {bonus: {beta: 0}}}
runtime: {device: cpu, precision: fp32}
"""


def decoded(path):
    return decode(path, Geometry())


@pytest.mark.parametrize(
    ("what", "policy"), [("toy/blob", "random"), ("metaworld/reach", "scripted")]
)
def test_play_records_an_episode_and_prints_its_return(tmp_path, what, policy):
    film = tmp_path / "film.mp4"
    words = ["--policy", policy, "--out", str(film), "--set", "env.time_limit=12"]
    done = CliRunner().invoke(app, ["play", what, *words])
    assert done.exit_code == 0, done.output
    success = ", success 0" if what.startswith("metaworld") else ""
    assert done.output.startswith("return ") and f"{success}, 12 steps: {film}" in done.output
    clip = decoded(film)
    assert len(clip.frames) == 13 and (clip.width, clip.height) == (256, 256)
    assert np.abs(np.diff(clip.frames.astype(int), axis=0)).max() > 10


def test_an_agent_plays_with_the_settings_of_its_run(tmp_path):
    write_text(tmp_path / "config.yaml", SMALL)
    cfg = config.load([tmp_path / "config.yaml"])
    torch.manual_seed(0)
    agent = Agent(cfg.model, cfg.finetune.agent, 2)
    save_weights(tmp_path, agent.state_dict(), {"kind": "agent", "suite": "toy", "task": "blob"})
    weights, film = str(tmp_path / "weights.json"), tmp_path / "film.mp4"
    outcome, again = (play("toy/blob", weights, 3, film) for _ in range(2))
    assert outcome[:3] == again[:3] and outcome.length == 7
    assert len(decoded(film).frames) == 8
    assert outcome[0] != play("toy/blob", "random", 3, film, ["env.time_limit=7"])[0]
    with pytest.raises(UserError, match="was trained on toy/blob, which has another action space"):
        play("dmc/walker-walk", weights, 0, film)


def test_the_gpu_is_claimed_before_the_environment_is_created(tmp_path, monkeypatch):
    """MuJoCo uses the GPU that is visible when an environment is created."""

    def no_gpu(runtime):
        raise UserError("no place on a GPU")

    write_text(tmp_path / "config.yaml", SMALL)
    monkeypatch.setattr(module, "set_up", no_gpu)
    monkeypatch.setattr(module, "make", lambda *_: pytest.fail("made"))
    with pytest.raises(UserError, match="no place on a GPU"):
        play("toy/blob", str(tmp_path / "weights.json"), 0, tmp_path / "film.mp4")


def test_mistakes_are_one_line_errors(tmp_path):
    film = tmp_path / "film.mp4"
    with pytest.raises(UserError, match=r"no scripted policy for toy/blob; .* driving, metaworld"):
        play("toy/blob", "scripted", 0, film)
    with pytest.raises(UserError, match=r"must end in \.mp4"):
        play("toy/blob", "random", 0, tmp_path / "film.gif")
    with pytest.raises(UserError, match="unknown policy 'scriptd'; did you mean: scripted"):
        play("toy/blob", "scriptd", 0, film)
    with pytest.raises(UserError, match="cannot read"):
        play("toy/blob", str(tmp_path / "none/weights.json"), 0, film)
    save_weights(tmp_path, {"x": torch.zeros(1)}, {"kind": "action-free"})
    write_text(tmp_path / "config.yaml", SMALL)
    with pytest.raises(UserError, match="holds a model of kind action-free, not an agent"):
        play("toy/blob", str(tmp_path / "weights.json"), 0, film)
    assert not film.exists()
