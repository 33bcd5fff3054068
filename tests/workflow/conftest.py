"""Copies of the project in which Snakemake runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def copy_project():
    """Copy all that Snakemake reads to a folder."""

    def copy(folder):
        for name in ("config", "workflow", "profiles"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "Snakefile", folder)
        return folder

    return copy


@pytest.fixture
def project(copy_project, tmp_path, monkeypatch):
    """A copy of the project for one test, as the current folder."""
    monkeypatch.chdir(copy_project(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def snakemake():
    """Run `snakemake WORDS...` in a folder with this checkout's code; None unsets a variable."""

    def run(folder, *words, **variables):
        variables = os.environ | {"PYTHONPATH": str(ROOT)} | variables
        environment = {name: value for name, value in variables.items() if value is not None}
        command = ["snakemake", "--cores", "2", *words]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    return run
