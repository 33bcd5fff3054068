"""Doctor: what is looked at is really tried, and only a dead Snakemake loses its lock."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cwm import doctor

SNAKEFILE = """
rule all:
    input: "done.txt"

rule work:
    output: "done.txt"
    log: "work.log"
    shell: "touch started; {command}; touch {{output}}"
"""


def start(folder: Path) -> subprocess.Popen:
    """A Snakemake, in a process group of its own, whose job has begun and does not end."""
    (folder / "Snakefile").write_text(SNAKEFILE.format(command="sleep 1000"))
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    process = subprocess.Popen(
        command, cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL
    )
    while not (folder / "started").exists():
        assert process.poll() is None, "Snakemake ended before its job began"
        time.sleep(0.05)
    return process


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def grave(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grave")
    kill(start(folder))
    return folder


@pytest.fixture
def killed(grave, tmp_path, monkeypatch):
    """A folder, and we in it, in which a Snakemake was killed together with its job."""
    shutil.copytree(grave, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    assert list(Path(".snakemake/locks").iterdir())


def test_the_lock_of_a_live_snakemake_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    process = start(tmp_path)
    try:
        assert doctor.unlock() == 1
        assert list(Path(".snakemake/locks").iterdir())
        assert str(process.pid) in capsys.readouterr().err
        assert not doctor.snakemake().ok
    finally:
        kill(process)


def test_the_lock_of_a_killed_snakemake_goes_and_the_next_one_starts(killed):
    Path("Snakefile").write_text(SNAKEFILE.format(command="true"))
    again = [sys.executable, "-m", "snakemake", "--cores", "1", "--rerun-incomplete"]
    assert subprocess.run(again, capture_output=True).returncode != 0  # it is locked
    assert doctor.unlock() == 0
    assert subprocess.run(again, capture_output=True).returncode == 0
    assert Path("done.txt").exists()


def test_the_lock_stays_while_a_job_that_was_left_behind_runs(killed, capsys):
    body = "import sys; print('up', flush=True); sys.stdin.read()"
    Path("cwm").write_text(body)
    command = [sys.executable, "cwm", "finetune", "toy/sphere", "--out", "here"]
    job = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    job.stdout.readline()
    assert doctor.unlock() == 1
    assert "finetune toy/sphere" in capsys.readouterr().err
    job.communicate()
    assert doctor.unlock() == 0


def test_the_lock_of_another_host_stays(killed, capsys, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert doctor.unlock() == 1
    assert "snakemake --unlock" in capsys.readouterr().err


def test_the_lock_of_an_unknown_host_stays(killed, capsys):
    for log in Path(".snakemake/log").iterdir():
        log.unlink()
    assert doctor.unlock() == 1
    assert "unknown host" in capsys.readouterr().err


def test_a_folder_without_a_lock_has_nothing_to_unlock(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert doctor.unlock() == 0
    assert capsys.readouterr() == ("", "")


def test_this_machine_can_run_the_study(capsys):
    assert doctor.doctor() == 0, capsys.readouterr().out


def test_an_opengl_that_cannot_draw_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    found = doctor.opengl()
    assert not found.ok
    assert "MUJOCO_GL=vulkan" in found.detail
    assert found.remedy == "unset MUJOCO_GL, or set it to osmesa or egl"


def test_an_ffmpeg_that_does_not_run_is_missing_and_the_exit_status_says_so(monkeypatch, capsys):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    assert not doctor.ffmpeg().ok
    monkeypatch.setattr(doctor, "diagnose", lambda: [doctor.ffmpeg()])
    assert doctor.doctor() == 1
    out = capsys.readouterr().out
    assert out.startswith("MISSING  ffmpeg")
    assert "-> make setup" in out


def test_a_store_that_is_down_is_a_note_and_no_error(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(doctor, "diagnose", lambda: [doctor.mlflow()])
    assert doctor.doctor() == 0
    assert capsys.readouterr().out.startswith("note     MLflow")
