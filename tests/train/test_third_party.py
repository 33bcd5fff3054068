"""Training on an environment of a package that this project does not know (highway-env)."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from cwm.cli import app

ROOT = Path(__file__).parents[2] / "config"
RACETRACK = "highway_env:racetrack-v1"
SMALL = {
    "simulation_frequency": 5,
    "policy_frequency": 5,
    "screen_width": 96,
    "screen_height": 128,
    "scaling": 3,
}
FEW = {
    "steps": 32,
    "prefill": 16,
    "length": 4,
    "train_every": 4,
    "eval_every": 16,
    "eval_episodes": 1,
    "agent": {"bonus": {"window": 3}},
}


def cwm(*words):
    done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A file of settings with one task, in a folder of a user's."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config/suite/mine.yaml"
    path.parent.mkdir(parents=True)
    env = {"make": RACETRACK, "kwargs": {"config": SMALL}}
    path.write_text(yaml.safe_dump({"tasks": {"racetrack": {"env": env}}}))
    (tmp_path / "few.yaml").write_text(yaml.safe_dump({"env": {"time_limit": 8}, "finetune": FEW}))
    return path


def test_an_agent_trains_on_a_third_party_environment(suite, tmp_path):
    files = [ROOT / "scale/smoke.yaml", ROOT / "model/plain.yaml", "few.yaml"]
    cwm("finetune", "mine/racetrack", suite, *files, "--out", "run")
    scores = pd.read_csv("run/scores.csv")
    assert set(scores["split"]) == {"train", "eval"} and (scores["length"] <= 8).all()
    assert scores["return"].between(0.1, 8).all()  # rewards are at most 1
    metrics = Path("run/metrics.jsonl").read_text()
    assert '"train/image"' in metrics and "NaN" not in metrics
    # The same without a suite's file.
    sets = [f"--set=env.make={RACETRACK}", f"--set=env.kwargs={{config: {SMALL}}}"]
    cwm("finetune", "mine/racetrack", *files, *sets, "--out", "direct")
    for name in ("weights.safetensors", "scores.csv", "episode.mp4"):
        assert Path("run", name).read_bytes() == Path("direct", name).read_bytes()
    output = cwm("evaluate", "run", "--trust", "--episodes", 1, "--video", "film.mp4")
    assert output.startswith("1 episode: return ")
    assert Path("film.mp4").stat().st_size > 1000


def test_policies_that_do_not_learn_are_scored_on_it(suite):
    files = [ROOT / "scale/smoke.yaml", ROOT / "model/plain.yaml", "few.yaml"]
    cwm("baselines", "mine/racetrack", suite, *files, "--out", "run")
    assert set(pd.read_csv("run/scores.csv")["policy"]) == {"random", "untrained"}
