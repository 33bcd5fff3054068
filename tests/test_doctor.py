"""Checks of the machine really try what they check; only a dead Snakemake loses its lock."""

import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cwm import doctor
from cwm.infra import device
from cwm.infra.files import file_lock

ROOT = Path(__file__).parents[1]
SNAKEFILE = """
rule all:
    input: "done.txt"

rule work:
    output: "done.txt"
    log: "work.log"
    shell: "touch started; {command}; touch {{output}}"
"""


def start(folder: Path) -> subprocess.Popen:
    """Start a Snakemake in its own process group, with a job that does not end."""
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
    """The working folder, in which a Snakemake was killed together with its job."""
    shutil.copytree(grave, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    assert list(Path(".snakemake/locks").iterdir())


def test_unlock_keeps_the_lock_of_a_running_snakemake(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    process = start(tmp_path)
    try:
        again = [sys.executable, "-m", "snakemake", "--cores", "1"]
        second = subprocess.run(again, capture_output=True, text=True)
        assert second.returncode == 1
        assert "Directory cannot be locked" in second.stderr
        assert doctor.unlock() == 1  # the first step of `make all`
        assert list(Path(".snakemake/locks").iterdir())
        assert str(process.pid) in capsys.readouterr().err
        assert not doctor.snakemake().ok
    finally:
        kill(process)


def test_unlock_removes_the_lock_of_a_killed_snakemake(killed):
    Path("Snakefile").write_text(SNAKEFILE.format(command="true"))
    again = [sys.executable, "-m", "snakemake", "--cores", "1", "--rerun-incomplete"]
    assert subprocess.run(again, capture_output=True).returncode != 0  # it is locked
    assert doctor.unlock() == 0
    assert subprocess.run(again, capture_output=True).returncode == 0
    assert Path("done.txt").exists()


def test_unlock_keeps_the_lock_while_a_job_still_runs(killed, capsys):
    body = "import sys; print('up', flush=True); sys.stdin.read()"
    Path("cwm").write_text(body)
    command = [sys.executable, "cwm", "finetune", "toy/sphere", "--out", "here"]
    job = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    job.stdout.readline()
    assert doctor.unlock() == 1
    assert "finetune toy/sphere" in capsys.readouterr().err
    job.communicate()
    assert doctor.unlock() == 0


def test_unlock_keeps_the_lock_of_another_host(killed, capsys, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert doctor.unlock() == 1
    assert "snakemake --unlock" in capsys.readouterr().err


def test_unlock_keeps_the_lock_of_an_unknown_host(killed, capsys):
    for log in Path(".snakemake/log").iterdir():
        log.unlink()
    assert doctor.unlock() == 1
    assert "unknown host" in capsys.readouterr().err


def test_dead_lock_is_reported_and_fixed(killed, capsys):
    found = doctor.snakemake()
    assert (found.ok, found.required, found.detail) == (
        False,
        False,
        "locked by a killed run",
    )
    assert "cwm doctor --fix" in found.remedy
    found.fix()
    assert doctor.snakemake().ok


def test_unlock_without_a_lock_does_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert doctor.unlock() == 0
    assert capsys.readouterr() == ("", "")


def test_this_machine_can_run_the_study(capsys):
    assert doctor.doctor() == 0, capsys.readouterr().out


def test_broken_opengl_is_named_with_a_remedy(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    found = doctor.opengl()
    assert not found.ok
    assert "MUJOCO_GL=vulkan" in found.detail
    assert found.remedy == "unset MUJOCO_GL, or set it to osmesa or egl"


def test_broken_ffmpeg_is_missing_and_sets_the_exit_status(monkeypatch, capsys):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    assert not doctor.ffmpeg().ok
    monkeypatch.setattr(doctor, "check_all", lambda: [doctor.ffmpeg()])
    assert doctor.doctor() == 1
    out = capsys.readouterr().out
    assert out.startswith("MISSING  ffmpeg")
    assert "-> make setup" in out


def test_too_old_ffmpeg_is_missing(monkeypatch, tmp_path):
    """Like ffmpeg 4.2.2, it runs but does not know -fps_mode."""
    program = tmp_path / "ffmpeg"
    version = "echo 'ffmpeg version 4.2.2-static Copyright (c) 2000-2019'"
    refusal = """echo "[error] Unrecognized option 'fps_mode'." >&2; exit 1"""
    program.write_text(f"#!/bin/sh\n[ $1 = -version ] && {version} && exit 0\n{refusal}\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    found = doctor.ffmpeg()
    assert (found.ok, found.required) == (False, True)
    reason = "cannot decode clips: ffmpeg: Unrecognized option 'fps_mode'."
    assert found.detail == f"ffmpeg 4.2.2-static ({program}) {reason}"
    assert found.remedy == (
        "make setup; unset IMAGEIO_FFMPEG_EXE, or set it to ffmpeg 7.0 or later"
    )


def test_other_system_is_a_note_with_what_it_lacks(monkeypatch, capsys):
    assert doctor.system().ok
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(doctor, "check_all", lambda: [doctor.system()])
    assert doctor.doctor() == 0
    out = capsys.readouterr().out
    assert out.startswith("note     system")
    assert "not tested; no CUDA, CARLA, SLURM" in out


def test_mlflow_down_is_a_note(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(doctor, "check_all", lambda: [doctor.mlflow()])
    assert doctor.doctor() == 0
    assert capsys.readouterr().out.startswith("note     MLflow")


def test_another_package_named_envs_is_not_imported(tmp_path):
    other = tmp_path / "other/envs"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('the other envs')")
    environment = os.environ | {"PYTHONPATH": f"{other.parent}:{ROOT}"}
    for command in (
        ["from cwm.cli import main; main()", "evaluate", "toy/sphere"],
        ["from cwm import doctor; print(doctor.opengl())"],
    ):
        command = [sys.executable, "-c", *command]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "ok=True" in done.stdout


@pytest.mark.parametrize(("free", "mark"), [(10**7, "MISSING"), (10**9, "note"), (10**11, "ok")])
def test_full_disk_is_an_error_and_nearly_full_a_note(monkeypatch, capsys, free, mark):
    usage = shutil.disk_usage(".")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(doctor, "check_all", lambda: [doctor.disk()])
    assert doctor.doctor() == (mark == "MISSING")
    out = capsys.readouterr().out
    assert out.startswith(mark)
    assert ("du -xhDd4" in out) == (mark != "ok")


def test_unwritable_home_is_named_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found = doctor.home()
    assert (found.ok, found.required) == (False, True)
    assert found.detail == (
        "the cache folder /proc/none/.cache is not writable: No such file or directory"
    )
    assert found.remedy == 'export XDG_CACHE_HOME="$PWD/.snakemake/cache"'
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert doctor.home().ok


def test_missing_home_is_named_with_a_remedy(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as of a container's user
    found = doctor.home()
    assert found.detail == "HOME is not set, and the user has no home folder"
    assert found.remedy == 'export HOME=/tmp XDG_CACHE_HOME="$PWD/.snakemake/cache"'


def test_unwritable_folder_is_an_error(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != Path("results"))
    found = doctor.disk()
    assert (found.ok, found.required) == (False, True)
    assert found.remedy.startswith(f"chmod u+w {tmp_path / 'results'}")


def test_project_folder_may_be_read_only_if_its_folders_exist(monkeypatch, tmp_path):
    """As in the image, where the user can write to these three folders only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != Path())
    Path("results").mkdir()
    assert doctor.disk().detail == f"{tmp_path} is not writable"
    Path("data").mkdir()
    Path(".snakemake").mkdir()
    assert "not writable" not in doctor.disk().detail


def test_wrong_and_missing_libraries_are_named(monkeypatch):
    assert doctor.libraries().ok
    real = importlib.metadata.version

    def version(name):
        if name == "mujoco":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "dm_control" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = doctor.libraries()
    assert (found.ok, found.required) == (False, True)
    assert "mujoco is missing, not 3.10.0" in found.detail
    assert "dm_control is 0.1, not 1.0.43" in found.detail


def test_doctor_runs_without_optional_packages(tmp_path):
    """Which a new user may not have installed yet; `python -m cwm.doctor` needs torch alone."""
    code = """
import sys
for name in ("mlflow", "psutil", "snakemake", "ffmpeg", "imageio_ffmpeg", "mujoco", "pandas"):
    sys.modules[name] = None
from cwm import doctor
print(doctor.doctor())
"""
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MISSING  ffmpeg" in done.stdout


@pytest.mark.parametrize(("cuda", "usable"), [(None, False), ("13.0", False), ("13.0", True)])
def test_gpu_that_torch_cannot_use_is_a_note(monkeypatch, cuda, usable):
    monkeypatch.setattr(device, "visible_gpus", lambda: [device.Gpu(0, "GPU-1", 5, 100)])
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    found = doctor.gpu()
    assert (found.ok, found.required) == (usable, usable)
    assert found.detail.startswith("0 (5 of 100 MiB in use)")
    assert usable or "torch" in found.detail


UNFINISHED = (
    "results/smoke/finetune/run/.tmp-weights.safetensors",
    "results/smoke/work/abc/replay/.tmp-0000003.npz",
    "data/x/.tmp-set/1.webm",
    "results/smoke/work/old.finished/run.json",
)
RESUMABLE = (
    "data/x/archives/set.tgz.part",
    "results/smoke/work/abc/replay/0000002.npz",
    "results/smoke/work/abc/checkpoint/000000001/done",
    "results/smoke/clips/x/part-000/journal.jsonl",
)


@pytest.fixture
def leftovers(monkeypatch, tmp_path):
    """Files of a killed study, in a folder where nothing runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "QUIET", 0.0)
    for name in (*UNFINISHED, *RESUMABLE):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")


def test_fix_removes_unfinished_files_and_keeps_what_can_be_resumed(leftovers, monkeypatch, capsys):
    checks = [doctor.unfinished, doctor.interrupted]
    monkeypatch.setattr(doctor, "check_all", lambda: [check() for check in checks])
    assert doctor.doctor() == 0
    assert "-> cwm doctor --fix" in capsys.readouterr().out
    assert all(Path(name).exists() for name in UNFINISHED)
    assert doctor.doctor(fix=True) == 0
    out = capsys.readouterr().out
    assert "-> fixed" in out
    assert "1 interrupted: results/smoke/work/abc" in out
    assert doctor.unfinished().ok
    assert all(Path(name).exists() for name in RESUMABLE)
    assert not any(Path(name).exists() for name in UNFINISHED)


def test_new_files_and_locked_folders_are_left_alone(leftovers, monkeypatch):
    monkeypatch.setattr(doctor, "QUIET", 60.0)
    assert doctor.unfinished().ok
    monkeypatch.setattr(doctor, "QUIET", 0.0)
    Path(".snakemake/locks").mkdir(parents=True)
    Path(".snakemake/locks/0.input.lock").touch()
    assert doctor.unfinished().ok  # the owner of the lock may run on another host


def test_running_run_is_not_interrupted(leftovers):
    with file_lock(Path("results/smoke/work/abc.lock"), "running"):
        assert doctor.interrupted().ok
    assert not doctor.interrupted().ok
