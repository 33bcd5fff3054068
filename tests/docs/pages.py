"""Run the commands of every how-to guide and reference page: `make docs-test`.

`make test` runs those of the tutorial, in workflow/test_smoke.py.
"""

import shutil
import subprocess

import pytest
from blocks import PAGES, blocks, copy_project, run

RUN = [page for page in PAGES if any(block.runs for block in blocks(page))]
MADE = [
    "results/laptop/pretrain/something/contextwm/0/weights.json",
    "results/laptop/finetune/toy/sphere-remastered/contextwm/none/standard/0/scores.csv",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project with a pre-trained model and an agent."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    subprocess.run(["snakemake", "--cores", "2", *MADE], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_commands_of_a_page_run(page, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "project")
    run(page, folder)
