"""Doctor: what is looked at is really tried, and only a dead Snakemake loses its lock."""

import fcntl
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

from cwm import doctor, remains
from cwm.infra import tracking
from cwm.infra.checkpoint import save_weights

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


def test_a_dead_lock_is_found_and_mended(killed, capsys):
    found = doctor.snakemake()
    assert (found.ok, found.needed, found.detail) == (
        False,
        False,
        "locked by a run that was killed",
    )
    assert "cwm doctor --fix" in found.remedy
    found.fix()
    assert doctor.snakemake().ok


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


def test_ffmpeg_that_is_too_old_is_missing(monkeypatch, tmp_path):
    """As ffmpeg 4.2.2 does: it runs, but knows no option -fps_mode."""
    program = tmp_path / "ffmpeg"
    version = "echo 'ffmpeg version 4.2.2-static Copyright (c) 2000-2019'"
    refusal = """echo "[error] Unrecognized option 'fps_mode'." >&2; exit 1"""
    program.write_text(f"#!/bin/sh\n[ $1 = -version ] && {version} && exit 0\n{refusal}\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    found = doctor.ffmpeg()
    assert (found.ok, found.needed) == (False, True)
    reason = "cannot decode clips: ffmpeg: Unrecognized option 'fps_mode'."
    assert found.detail == f"ffmpeg 4.2.2-static ({program}) {reason}"
    assert found.remedy == (
        "make setup; unset IMAGEIO_FFMPEG_EXE, or set it to ffmpeg 7.0 or later"
    )


def test_a_store_that_is_down_is_a_note_and_no_error(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(doctor, "diagnose", lambda: [doctor.mlflow()])
    assert doctor.doctor() == 0
    assert capsys.readouterr().out.startswith("note     MLflow")


def test_another_package_named_envs_on_the_path_changes_nothing(tmp_path):
    other = tmp_path / "other/envs"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('the other envs')")
    environment = os.environ | {"PYTHONPATH": f"{other.parent}:{ROOT}"}
    for command in (
        ["from cwm.cli import main; main()", "play", "toy/sphere", "--out", "film.mp4"],
        ["from cwm import doctor; print(doctor.opengl())"],
    ):
        command = [sys.executable, "-c", *command]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "ok=True" in done.stdout
    assert (tmp_path / "film.mp4").exists()


HALF = (
    "results/smoke/finetune/run/.tmp-weights.safetensors",
    "results/smoke/work/abc/replay/.tmp-0000003.npz",
    "results/smoke/clips/x/.tmp-store.json",
    "results/smoke/videos/x/.tmp-1.webm",
    "data/x/.set.part/1.webm",
)
KEPT = (
    "data/x/archives/set.tgz.part",  # a download goes on from it
    "data/x/archives/set.tgz.part.json",
    "results/smoke/work/abc/replay/0000002.npz",
    "results/smoke/work/abc/checkpoint/000000001/done",
    "results/smoke/clips/x/part-000/journal.jsonl",
)


@pytest.fixture
def left(monkeypatch, tmp_path):
    """What a killed study leaves, in a folder where nobody works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remains, "QUIET", 0.0)
    for name in (*HALF, *KEPT):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")
    return tmp_path


def test_what_was_half_written_is_found_and_goes_and_what_can_be_gone_on_with_stays(left):
    found = doctor.half_written()
    assert not found.ok
    assert not found.needed
    assert set(remains.half_written()) == {*map(Path, HALF[:-1]), Path("data/x/.set.part")}
    found.fix()
    assert doctor.half_written().ok
    assert all(Path(name).exists() for name in KEPT)
    assert not any(Path(name).exists() for name in HALF)


def test_what_somebody_may_be_writing_stays(left, monkeypatch):
    work, data = Path(HALF[1]), Path("data/x/.set.part")
    Path("results/smoke/work/abc.lock").touch()
    (data.parent / ".lock").touch()
    for lock, path in (("results/smoke/work/abc.lock", work), ("data/x/.lock", data)):
        with Path(lock).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert path not in remains.half_written()
        assert path in remains.half_written()
    monkeypatch.setattr(remains, "QUIET", 60.0)
    assert remains.half_written() == []  # it has only just been written
    monkeypatch.setattr(remains, "QUIET", 0.0)
    Path(".snakemake/locks").mkdir(parents=True)
    Path(".snakemake/locks/0.input.lock").touch()
    assert remains.half_written() == []  # whoever locked this folder may work on another host


def test_runs_that_were_stopped_are_named_and_nothing_removes_them(left, capsys):
    work = Path("results/smoke/work/abc")
    (work / "run.json").write_text('{"stage": "pretrain", "dataset": "x", "model": "plain"}')
    found = doctor.unfinished()
    assert f"{work} (pretrain/x/plain)" in found.detail
    assert "make all goes on" in found.remedy
    assert found.fix is None
    work.with_suffix(".lock").touch()
    with work.with_suffix(".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert doctor.unfinished().ok  # it is being made


def test_damaged_weights_are_named_and_stay(left):
    folder = Path("results/smoke/pretrain/x/plain")
    folder.mkdir(parents=True)
    save_weights(folder, {"x": torch.ones(3)}, {})
    assert doctor.weights().ok
    for name in ("weights.safetensors", "weights.json"):
        whole = (folder / name).read_bytes()
        for spoilt in (whole[:-9], b"", None):
            (folder / name).write_bytes(spoilt) if spoilt is not None else (folder / name).unlink()
            found = doctor.weights()
            if name == "weights.json" and spoilt is None:
                assert found.ok  # nothing vouches for them, and Snakemake makes them again
                continue
            assert not found.ok
            assert f"rm {folder / 'weights.json'}; make all" in found.remedy
            assert found.fix is None
        (folder / name).write_bytes(whole)


def test_weights_of_published_runs_are_not_missed(left):
    folder = Path("results/published/smoke/pretrain/x/plain")
    folder.mkdir(parents=True)
    save_weights(folder, {"x": torch.ones(3)}, {})
    (folder / "weights.safetensors").unlink()
    assert doctor.weights().ok


@pytest.mark.parametrize("store", [None, "results/tracking.db", "results/mine/mlflow.db"])
def test_copies_of_weights_json_in_mlflow_are_not_damaged_weights(left, monkeypatch, store):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if store:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{left / store}")
    folder = Path("results/smoke/pretrain/x/plain/0")
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"stage": "pretrain", "key": "k", "dataset": "x"}')
    save_weights(folder, {"x": torch.ones(3)}, {})
    assert tracking.sync_all()
    assert len(list(Path("results").rglob("weights.json"))) == 2
    assert doctor.weights().detail == "none damaged"
    (folder / "weights.safetensors").unlink()
    assert remains.damaged_weights() == [folder / "weights.json"]


def test_a_missing_or_another_library_is_named_with_the_line_that_installs_it(monkeypatch):
    assert doctor.libraries().ok
    real = importlib.metadata.distribution

    class Other:
        version, requires = "0.1", None

    def changed(name):
        if name == "mujoco":
            raise importlib.metadata.PackageNotFoundError(name)
        return Other() if name == "markupsafe" else real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", changed)
    found = doctor.libraries()
    assert (found.ok, found.needed) == (False, True)
    assert "mujoco is missing, not 3.10.0" in found.detail
    assert "markupsafe 0.1, not 3.0.4" in found.detail
    assert found.remedy == "rm -f .venv/libraries-* .venv/ready-*; make setup"


@pytest.mark.parametrize(("free", "mark"), [(10**7, "MISSING"), (10**9, "note"), (10**11, "ok")])
def test_a_full_disk_is_an_error_and_a_nearly_full_one_a_note(monkeypatch, capsys, free, mark):
    usage = shutil.disk_usage(".")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(doctor, "diagnose", lambda: [doctor.disk()])
    assert doctor.doctor() == (mark == "MISSING")
    out = capsys.readouterr().out
    assert out.startswith(mark)
    assert ("du -xhDd4" in out) == (mark != "ok")


def test_a_home_folder_that_cannot_be_written_to_is_named_with_the_line_that_helps(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found = doctor.home()
    assert (found.ok, found.needed) == (False, True)
    assert found.detail == (
        "no cache can be written in /proc/none/.cache: No such file or directory"
    )
    assert found.remedy == 'export XDG_CACHE_HOME="$PWD/.snakemake/cache"'
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert doctor.home().ok


def test_a_user_without_a_home_folder_is_told_so(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as of a container's user
    found = doctor.home()
    assert found.detail == "HOME is not set, and the user has no home folder"
    assert found.remedy == 'export HOME=/tmp XDG_CACHE_HOME="$PWD/.snakemake/cache"'


def test_a_folder_that_cannot_be_written_to_is_an_error(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != Path("results"))
    found = doctor.disk()
    assert (found.ok, found.needed) == (False, True)
    assert found.remedy.startswith(f"make it writable: chmod u+w {tmp_path / 'results'}")


def test_a_closed_project_folder_matters_only_where_something_must_be_made_in_it(
    monkeypatch, tmp_path
):
    """As in the image, where only the three folders below are open to its user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != Path())
    Path("results").mkdir()
    assert doctor.disk().detail == f"nothing can be written in {tmp_path}"
    Path("data").mkdir()
    Path(".snakemake").mkdir()
    assert "nothing can be written" not in doctor.disk().detail


CARD = "0, GPU-1, 5, 100"


@pytest.mark.parametrize(
    ("cuda", "driver", "usable", "detail", "remedy"),
    [
        (None, "580.65", False, "torch is built for the CPU", "make setup TORCH=torch==2.13.0"),
        ("13.0", "535.1", False, "driver 535.1 is too old for torch's CUDA 13.0", "driver 580"),
        ("13.0", "580.65", False, "torch cannot use it", "reboot"),
        ("13.0", "580.65", True, "0 (5 of 100 MiB in use), driver 580.65", None),
    ],
)
def test_a_driver_that_does_not_fit_is_named(
    monkeypatch, tmp_path, cuda, driver, usable, detail, remedy
):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\ncase $1 in *driver*) echo {driver};; *) echo {CARD};; esac\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    found = doctor.gpu()
    assert found.ok == usable
    assert detail in found.detail
    assert remedy is None or remedy in found.remedy


def test_a_driver_that_hangs_does_not_hang_us(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 100\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(doctor.device, "SMI_TIMEOUT", 0.2)
    assert "nvidia-smi did not answer within 0.2 s" in doctor.gpu().detail


def test_fix_mends_what_it_may_and_says_the_rest(left, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "diagnose", lambda: [doctor.half_written(), doctor.unfinished()])
    assert doctor.doctor() == 0
    out = capsys.readouterr().out
    assert "-> cwm doctor --fix" in out
    assert Path(HALF[0]).exists()
    assert doctor.doctor(fix=True) == 0
    out = capsys.readouterr().out
    assert "-> mended" in out
    assert "-> make all goes on" in out
    assert not Path(HALF[0]).exists()
