"""The wheel is complete: it works outside the checkout, and its core without the extras."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import squares

from cwm.infra.errors import EXTRAS
from cwm.infra.source import STUDY
from cwm.videos.lists import write_list

ROOT = Path(__file__).parents[1]
BUILD = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "cwm", "envs", *STUDY)
COMMIT = "c0ffee"
SMOKE = "config/scale/smoke.yaml"


def run(*words, folder=None, status=0, **variables):
    """Output and errors of a command that does not see the checkout."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "CWM_COMMIT")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | variables
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a source archive, which is built from a copy: a build writes into its folder."""
    copy = tmp_path_factory.mktemp("copy")
    for name in BUILD:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name)
        else:
            shutil.copy(ROOT / name, copy)
    code = "from setuptools import build_meta; build_meta.build_sdist('.')"
    run(sys.executable, "-c", code, folder=copy, CWM_COMMIT=COMMIT)
    (archive,) = copy.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip, archive.name, folder=copy)
    return next(copy.glob("*.whl"))


def install(wheel, folder, without=()):
    """Install the wheel in a new environment with our libraries, except some; its programs."""
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", str(wheel))
    libraries = folder / "libraries"
    libraries.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.lower().startswith(("contextwm", *without)):
            (libraries / path.name).symlink_to(path)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "lib" / version / "site-packages/libraries.pth").write_text(f"{libraries}\n")
    return python.parent


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """Programs of an environment in which no extra is installed."""
    return install(wheel, tmp_path_factory.mktemp("core"), tuple(EXTRAS))


@pytest.fixture(scope="module")
def study(core, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere") / "study"
    run(core / "cwm", "init", folder)
    return folder


def test_core_trains_without_the_extras(core, study, tmp_path):
    clips = squares.store(tmp_path)
    settings = ("squares", SMOKE, "config/model/plain.yaml")
    options = ("--clips", clips, "--set", "pretrain.updates=1", "--out", "run")
    run(core / "cwm", "pretrain", *settings, *options, folder=study)
    assert (study / "run/weights.safetensors").exists()
    assert json.loads((study / "run/run.json").read_text())["commit"] == COMMIT


def test_a_new_study_has_the_model_of_the_laptop_study(core, study):
    said = run(core / "cwm", "plan", "all", folder=study)
    assert "laptop, all: 18 fine-tuning runs, 4 pre-trained models" in said


def test_doctor_reports_the_missing_extras_as_notes(core, study):
    said = run(core / "cwm", "doctor", folder=study)
    assert "pip install 'contextwm[h264,hub,sim,tensorboard,tracking,workflow]'" in said
    assert "MISSING" not in said
    assert "make setup" not in said


@pytest.mark.parametrize(
    ("words", "module"),
    [
        ("tensorboard", "tensorboard"),
        ("ui", "mlflow"),
        ("videos .", "snakemake"),
        (f"decode x {SMOKE} --set dataset.codec=h264 --videos videos.json --out part", "av"),
    ],
)
def test_missing_extra_is_one_line_with_the_remedy(core, study, words, module):
    about = {"root": ".", "part": 0, "parts": 2}
    write_list(study / "list-000.parquet", [], about)  # no videos
    said = run(core / "cwm", *words.split(), folder=study, status=2)
    remedy = f"pip install 'contextwm[{EXTRAS[module]}]'"
    assert said == f"cwm: {module} is not installed: {remedy}\n"


def test_snakemake_plans_the_study_of_the_wheel(wheel, study, tmp_path):
    programs = install(wheel, tmp_path)
    path = f"{programs}:{os.environ['PATH']}"
    words = ("-m", "snakemake", "-n", "--config", "scale=smoke", "--", "all")
    said = run(programs / "python", *words, folder=study, PATH=path)
    assert "rule finetune:" in said and "rule report:" in said
