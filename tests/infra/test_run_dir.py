"""The folder of a run: its logs, its lock, and what a kill at its end leaves."""

import os
import shutil
import signal

import pytest
import torch

from cwm.infra import tracking
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir, RunSpec

TASK = RunSpec("pretrain", "squares", {"scale": "smoke"}, {}, {})
GROUPS = {"world": {"x": torch.ones(2)}}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "sync", lambda *_, **__: True)


@pytest.fixture
def run(tmp_path):
    """A run with two lines and a checkpoint after the first."""
    with RunDir(TASK, tmp_path / "out", 0.0) as run:
        run.log(1, {"loss": 1.0}, 1.0)
        run.checkpoint(1, GROUPS)
        run.log(2, {"loss": 2.0}, 1.0)
    return run


def again(tmp_path):
    return RunDir(TASK, tmp_path / "out", 0.0)


def test_what_a_kill_leaves_of_a_finished_run_is_not_gone_on_with(run, tmp_path, monkeypatch):
    """Half of its files would be: a checkpoint without the replay that it belongs to."""

    def killed(folder, **_):
        (folder / "metrics.jsonl").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), again(tmp_path) as run:
        patch.setattr(shutil, "rmtree", killed)
        run.publish("metrics.jsonl")
    with again(tmp_path) as run:
        assert run.resume() is None
        assert [path.name for path in run.folder.parent.iterdir() if path.is_dir()] == [TASK.key]


def test_going_on_leaves_what_is_published_already_as_it_is(run, tmp_path, monkeypatch):
    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), again(tmp_path) as run:
        patch.setattr(tracking, "sync", killed)
        run.publish("metrics.jsonl")
    with again(tmp_path) as run:
        assert run.resume()[1]["step"] == 1
        assert (run.folder / "metrics.jsonl").read_text().count("\n") == 1
        assert (tmp_path / "out/metrics.jsonl").read_text().count("\n") == 2
        run.log(2, {"loss": 2.0}, 1.0)
        run.publish("metrics.jsonl")
    assert not list((tmp_path / "out").glob(".tmp-*"))


@pytest.mark.parametrize(
    "content", [None, "", '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n']
)
def test_a_log_that_is_not_what_it_was_is_named(run, tmp_path, content):
    path = run.folder / "metrics.jsonl"
    path.unlink() if content is None else path.write_text(content)
    message = r"metrics\.jsonl is not what it was at the last checkpoint; put it back, or delete"
    with again(tmp_path) as run, pytest.raises(UserError, match=message):
        run.resume()


def test_two_processes_do_not_make_one_run(tmp_path):
    message = "another process is making this run"
    with again(tmp_path), pytest.raises(UserError, match=message), again(tmp_path):
        pass
    with again(tmp_path):
        pass


def test_two_processes_do_not_fill_one_folder(run, tmp_path):
    other = RunSpec("pretrain", "squares", {"scale": "smoke"}, {"updates": 3}, {})
    message = "another process is making .*out with other settings"
    with (
        again(tmp_path),
        pytest.raises(UserError, match=message),
        RunDir(other, tmp_path / "out", 0),
    ):
        pass


def test_a_run_that_is_told_to_stop_at_its_very_end_ends_well(run, tmp_path, monkeypatch):
    """As a job that failed it would lose its outputs, and its work is gone."""

    def slow(folder, **_):
        os.kill(os.getpid(), signal.SIGTERM)
        removed.append(folder)

    removed, before = [], signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, again(tmp_path) as run:
        patch.setattr(shutil, "rmtree", slow)
        run.publish("metrics.jsonl")
    assert removed
    assert (tmp_path / "out/metrics.jsonl").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_others_may_read_what_one_has_made(run):
    (weights,) = run.folder.glob("checkpoint/*/world.safetensors")
    assert weights.stat().st_mode & 0o777 == (run.folder / "run.json").stat().st_mode & 0o777
