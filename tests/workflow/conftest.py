"""A copy of the project in which Snakemake runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def copy_project(folder):
    """Copy all that Snakemake reads to `folder`."""
    for name in ("config", "workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project for one test, as the current folder."""
    monkeypatch.chdir(copy_project(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def snakemake():
    """Run `snakemake WORDS...` in a folder, with the code of this checkout."""

    def run(folder, *words, **environment):
        command = ["snakemake", "--cores", "2", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    return run
