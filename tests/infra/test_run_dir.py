"""Run folders: logs, locks, and kills during `publish`."""

import os
import shutil
import signal

import pytest
import torch

from cwm.infra import tracking
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir, RunSpec

SPEC = RunSpec("pretrain", "squares", {"scale": "smoke"}, {}, {})
GROUPS = {"world": {"x": torch.ones(2)}}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "sync", lambda *_, **__: True)


@pytest.fixture
def run(tmp_path):
    """A run with two log lines and a checkpoint after the first."""
    with RunDir(SPEC, tmp_path / "out", 0.0) as run:
        run.log(1, {"loss": 1.0}, 1.0)
        run.checkpoint(1, GROUPS)
        run.log(2, {"loss": 2.0}, 1.0)
    return run


def reopen(tmp_path):
    return RunDir(SPEC, tmp_path / "out", 0.0)


def test_resume_ignores_half_deleted_work_dir(run, tmp_path, monkeypatch):

    def killed(folder, **_):
        (folder / "metrics.jsonl").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), reopen(tmp_path) as run:
        patch.setattr(shutil, "rmtree", killed)
        run.publish("metrics.jsonl")
    with reopen(tmp_path) as run:
        assert run.resume() is None
        assert [path.name for path in run.folder.parent.iterdir() if path.is_dir()] == [SPEC.key]


def test_resume_after_killed_publish_leaves_published_files_unchanged(run, tmp_path, monkeypatch):
    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), reopen(tmp_path) as run:
        patch.setattr(tracking, "sync", killed)
        run.publish("metrics.jsonl")
    with reopen(tmp_path) as run:
        assert run.resume()[1]["step"] == 1
        assert (run.folder / "metrics.jsonl").read_text().count("\n") == 1
        assert (tmp_path / "out/metrics.jsonl").read_text().count("\n") == 2
        run.log(2, {"loss": 2.0}, 1.0)
        run.publish("metrics.jsonl")
    assert not list((tmp_path / "out").glob(".tmp-*"))


@pytest.mark.parametrize(
    "content", [None, "", '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n']
)
def test_damaged_log_is_an_error(run, tmp_path, content):
    path = run.folder / "metrics.jsonl"
    path.unlink() if content is None else path.write_text(content)
    message = r"metrics\.jsonl has changed since the last checkpoint; restore it from a copy"
    with reopen(tmp_path) as run, pytest.raises(UserError, match=message):
        run.resume()


def test_two_processes_cannot_make_the_same_run(tmp_path):
    message = "another process is making this run"
    with reopen(tmp_path), pytest.raises(UserError, match=message), reopen(tmp_path):
        pass
    with reopen(tmp_path):
        pass


def test_two_processes_cannot_publish_to_the_same_folder(run, tmp_path):
    other = RunSpec("pretrain", "squares", {"scale": "smoke"}, {"updates": 3}, {})
    message = "another process is making .*out with other settings"
    with (
        reopen(tmp_path),
        pytest.raises(UserError, match=message),
        RunDir(other, tmp_path / "out", 0),
    ):
        pass


def test_signal_during_cleanup_is_ignored(run, tmp_path, monkeypatch):
    """Snakemake deletes the outputs of a job that fails, and the work folder is gone by then."""

    def slow(folder, **_):
        os.kill(os.getpid(), signal.SIGTERM)
        removed.append(folder)

    removed, before = [], signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, reopen(tmp_path) as run:
        patch.setattr(shutil, "rmtree", slow)
        run.publish("metrics.jsonl")
    assert removed
    assert (tmp_path / "out/metrics.jsonl").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_weights_have_default_permissions(run):
    (weights,) = run.folder.glob("checkpoint/*/world.safetensors")
    assert weights.stat().st_mode & 0o777 == (run.folder / "run.json").stat().st_mode & 0o777
