"""`make long-test` runs what is installed and lists the rest; a stub stands in for `make`."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("long.sh")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "initdb")


@pytest.mark.parametrize(("failing", "status"), [("box-test", 1), ("nothing", 0)])
def test_long_tests_continue_after_a_failure_and_are_listed(tmp_path, failing, status):
    for name in ("bash", "git", "date"):
        (tmp_path / name).symlink_to(shutil.which(name))
    for name in ("make", *PROGRAMS):
        (tmp_path / name).write_text(f'#!/bin/sh\n[ "$2" != {failing} ]\n')
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [SCRIPT], env={"PATH": str(tmp_path)}, cwd=SCRIPT.parent, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    box = "failed " if status else "passed "
    listed = [line.partition(" (")[0] for line in done.stdout.splitlines()[-9:]]
    assert listed == [
        "passed   slurm-test",
        f"{box}  box-test",
        "skipped  image-test: buildah is not installed",
        "skipped  report-test: chromium is not installed",
        "skipped  docs-test: chromium is not installed",
        "skipped  viewer-test: chromium is not installed",
        "passed   punish",
        "passed   fuzz",
        "passed   soak",
    ]
