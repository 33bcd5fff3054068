"""Figures of published runs need no torch, and no rule can overwrite the published files."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from snakemake.api import OutputSettings, ResourceSettings, SnakemakeApi

from cwm import study
from cwm.infra.errors import UserError

ROOT = Path(__file__).parents[2]
NO_TORCH = """
import sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "torch" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
"""


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_published_figures_are_drawn_without_torch(tmp_path):
    for name in ("config", "workflow", "profiles", "results/published"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    published = tmp_path / "results/published/evidence-first"
    removed = published / "finetune/toy/sphere/dreamer/none/standard/3"
    shutil.rmtree(removed)
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}

    def run(*command):
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    assert "No module named 'torch'" in run("python", "-c", "import cwm.nn.rssm").stderr
    before = contents(tmp_path / "results/published")
    done = run("snakemake", "--cores", "1", "published_figures")
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(tmp_path / "results/published") == before
    drawn = tmp_path / "results/published-figures/evidence-first"
    facts = json.loads((drawn / "figures/learning_sphere.json").read_text())
    assert facts["seeds"]["DreamerV2 on toy/sphere"] == 4
    assert "Missing runs: toy/sphere/dreamer/none/standard/3." in facts["notes"]
    assert facts["command"].startswith("cwm redraw results/published/evidence-first")
    facts = json.loads((drawn / "figures/representations.json").read_text())
    assert list(facts["seeds"].values()) == [1, 1]
    for suffix in ("pdf", "png"):
        assert (drawn / f"figures/learning_sphere.{suffix}").stat().st_size > 10_000
    about = json.loads((removed.with_name("2") / "run.json").read_text())
    assert about["commit"][:7] in (drawn / "report.html").read_text()
    again = run("snakemake", "--cores", "1", "published_figures")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_no_rule_writes_to_the_published_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    with SnakemakeApi(OutputSettings(dryrun=True)) as api:
        workflow = api.workflow(ResourceSettings(cores=1), snakefile=ROOT / "Snakefile")
        workflow = workflow._workflow
        rules = {rule.name: [*rule.output, *rule.log, rule.benchmark] for rule in workflow.rules}
    assert {"redraw", "finetune", "scores", "report", "published_figures"} < rules.keys()
    for name, files in rules.items():
        for file in filter(None, files):
            prefix = file.constant_prefix()  # up to the first wildcard
            assert not prefix.startswith("results/published/"), name
            assert not "results/published/".startswith(prefix), name


@pytest.mark.parametrize("scale", ["published", "published/evidence"])
def test_no_scale_writes_to_the_published_folder(monkeypatch, scale):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"unknown scale|not a plain name"):
        study.load(scale)
