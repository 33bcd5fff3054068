"""Imports point one way, and heavy things have one door each."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a package may import of ours, beside what any may.
ANYONE = (
    *("cwm.errors", "cwm.json_file", "cwm.machine", "cwm.ranges", "cwm.runtime"),
    *("cwm.data.batch", "cwm.data.files", "cwm.optim"),
)
ALLOWED = {
    "envs": ("envs",),
    "cwm/nn": ("cwm.nn",),
    "cwm/world": ("cwm.nn", "cwm.world"),
    "cwm/behavior": ("cwm.nn", "cwm.behavior"),
    "cwm/data": ("cwm.data", "envs"),
    "cwm/analysis": ("cwm.analysis",),
}
DOORS = {
    "mlflow": ["cwm/tracking.py"],
    "metaworld": ["envs/metaworld.py"],
    "dm_control": ["envs/dmc.py"],
    "carla": ["envs/carla.py"],
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows_point_down(package):
    allowed = ALLOWED[package] + (() if package == "envs" else ANYONE)
    for path in (ROOT / package).rglob("*.py"):
        for name in imports(path):
            if name.split(".")[0] in ("cwm", "envs") and name != "cwm":
                assert name.startswith(allowed), f"{path} imports {name}"


@pytest.mark.parametrize("module", DOORS)
def test_heavy_things_have_one_door(module):
    found = [
        path.relative_to(ROOT).as_posix()
        for package in ("cwm", "envs")
        for path in (ROOT / package).rglob("*.py")
        if any(name.split(".")[0] == module for name in imports(path))
    ]
    assert set(found) <= set(DOORS[module])


def test_analysis_and_environments_load_no_torch():
    modules = "sys, cwm.analysis.report, cwm.analysis.figures, envs"
    code = f"import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_training_core_needs_little():
    """It runs where pandas, mlflow, Snakemake and the simulators are not installed."""
    code = """
import sys
for name in ("pandas", "pyarrow", "mlflow", "snakemake", "matplotlib", "scipy", "yaml", "ffmpeg",
             "imageio_ffmpeg", "mujoco", "metaworld", "dm_control"):
    sys.modules[name] = None
import cwm.agent, cwm.world.action_free, cwm.world.openloop, cwm.data.clips, cwm.data.replay
import cwm.run.pretrain, cwm.checkpoint, cwm.progress
"""
    subprocess.run([sys.executable, "-c", code], check=True)
