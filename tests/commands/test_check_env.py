"""`cwm check-env`: what it reports of an environment, its picture, and its exit status."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cwm.cli import app
from cwm.commands import check_env as module
from envs import external

ENVS = Path(__file__).parents[1] / "envs"
LINE = "own_envs:Line"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ENVS)


def check(*words, **kwargs):
    """Exit status, facts and problems for Line with some arguments."""
    sets = [f"--set=env.kwargs.{name}={value}" for name, value in kwargs.items()]
    length = "--set=finetune.length=5"
    done = CliRunner().invoke(app, ["check-env", *(words or [LINE]), length, *sets])
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    problems = [text for what, text in lines if what == "problem"]
    return done.exit_code, dict(line for line in lines if line[0] != "problem"), problems


def test_a_good_environment_is_described():
    status, facts, problems = check(steps=6, success="success")
    assert (status, problems) == (0, [])
    speed = facts.pop("speed")
    assert speed.endswith(" frames per second") and float(speed.split()[0]) > 0
    rewards = facts.pop("rewards")
    assert rewards.endswith(" per step") and 0 <= float(rewards.split()[0]) < 5
    assert facts == {
        "actions": "Box(0.0, 10.0, (1,), float32), rescaled to [-1, 1]",
        "frames": "render() of 48x96 pixels, resized to 64x64",
        "picture": "check-env.png: 4 frames of an episode as the agent sees them",
        "seed": "two episodes with equal seeds and 6 equal actions are equal",
        "episodes": "5 truncated; the longest has 6 agent steps",
        "success": "in 5 of 5 episodes",
    }


def test_the_picture_shows_what_the_agent_sees(tmp_path):
    check(LINE, "--picture", "seen.png")
    pixels = np.asarray(Image.open(tmp_path / "seen.png"))
    env = external.External(LINE, limited=True, kwargs={})
    frame, _ = env.reset(seed=0)
    assert pixels.shape == (256, 4 * 256, 3)
    assert np.array_equal(pixels[::4, :256:4], frame)
    for _ in range(6):
        frame = env.step(np.zeros(1))[0]
    assert np.array_equal(pixels[::4, -256::4], frame)


def test_a_task_of_a_suite_is_checked_with_its_settings(tmp_path):
    suite = tmp_path / "config/suite/mine.yaml"
    suite.parent.mkdir(parents=True)
    suite.write_text(f"tasks: {{line: {{env: {{make: '{LINE}', kwargs: {{height: 40}}}}}}}}")
    status, facts, _ = check("mine/line", str(suite))
    assert (status, facts["frames"]) == (0, "render() of 40x96 pixels, resized to 64x64")


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"fault": "global"}, "equal seeds and actions, the first frames differ between two inst"),
        ({"fault": "history"}, "the seed does not determine an episode: with equal seeds and acti"),
        (
            {"fault": "shared"},
            "a second instance in the same process changes the first (the first frames differ):"
            " set env.processes to true",
        ),
        ({"fault": "blank"}, "no frame of the first episode differs from its first frame"),
        ({"fault": "at once"}, "every episode ends at its first step"),
        ({"steps": 4}, "the longest of 5 episodes with random actions has 4 agent steps, fewer th"),
        ({"fault": "nan"}, f"{LINE}: the reward of step 3 is nan; rewards must be finite"),
        ({"fault": "size"}, f"{LINE}: a frame has 49x96 pixels after one of 48x96"),
        ({"fault": "raise"}, f"{LINE}: step failed with ZeroDivisionError: no map"),
        ({"actions": "discrete"}, f"{LINE}: actions are Discrete(3); they must be a Box"),
    ],
)
def test_a_problem_is_one_line_and_exit_status_1(kwargs, problem):
    status, _, problems = check(**kwargs)
    assert status == 1 and len(problems) == 1
    assert problem in problems[0]


def test_settings_that_solve_a_problem_are_taken():
    assert check(LINE, "--set=env.processes=true", fault="shared")[0] == 0


def test_an_endless_environment_needs_a_time_limit(monkeypatch):
    monkeypatch.setattr(module, "FIRST", 0.2)
    monkeypatch.setattr(module, "ALL", 0.3)
    status, _, (problem,) = check(steps=0)
    assert status == 1
    assert problem.startswith("no episode ended within ")
    assert problem.endswith("and nothing limits them: set env.time_limit, in agent steps")
    assert check(LINE, "--set=env.time_limit=6", steps=0)[::2] == (0, [])


def test_a_slow_environment_is_stopped(monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 1)
    status, _, (problem,) = check(LINE, fault="slow")
    assert status == 1 and problem.startswith("the check was not done within 1 s")


@pytest.mark.parametrize("name", ["own_envs:Lin", "zzqqxx:Line", "Linee-v0"])
def test_an_unknown_name_is_a_problem(name):
    status, facts, (problem,) = check(name)
    assert (status, facts) == (1, {}) and problem.startswith("unknown ")


def test_invalid_settings_are_a_mistake_of_the_command():
    done = CliRunner().invoke(app, ["check-env", LINE, "--set", "env.kwarg=1"])
    assert "did you mean: env.kwargs" in str(done.exception)
