"""Imports have one direction; each heavy library is imported in one place."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INFRA = ("cwm.infra", "cwm.settings")
MODELS = (*INFRA, "cwm.nn", "cwm.world", "cwm.behavior", "cwm.agent")
TRAINING = (*MODELS, "cwm.train", "cwm.videos", "envs")
SETTINGS = (*TRAINING, "cwm.evaluate", "cwm.config", "cwm.study", "cwm.study_file")

# Our packages that each part may import beside itself.
ALLOWED = {
    "envs": (),
    "cwm.settings": (),
    "cwm.infra": ("cwm.settings",),
    "cwm.videos": (*INFRA, "envs"),
    "cwm.recorded": (*INFRA, "cwm.videos"),
    "cwm.nn": INFRA,
    "cwm.world": (*INFRA, "cwm.nn"),
    "cwm.behavior": (*INFRA, "cwm.nn"),
    "cwm.agent": MODELS,
    "cwm.train": TRAINING,
    "cwm.evaluate": TRAINING,
    "cwm.analysis": (*INFRA, "cwm.study_file"),
    "cwm.convert": MODELS,
    "cwm.config": (*INFRA, "cwm.train", "cwm.videos"),
    "cwm.study_file": INFRA,
    "cwm.study": (*INFRA, "cwm.config", "cwm.study_file"),
    "cwm.plan": (*SETTINGS, "cwm.analysis"),
    "cwm.doctor": (*INFRA, "cwm.videos"),
    "cwm.viewer": (*TRAINING, "cwm.models"),
    "cwm.commands": (*SETTINGS, "cwm.models", "cwm.viewer", "cwm.analysis"),
    "cwm.cli": ("cwm", "envs"),
    "cwm": ("cwm.models",),
    "cwm.hub": INFRA,
    "cwm.models": (*MODELS, "cwm.config", "cwm.hub"),
    "bench": ("cwm", "envs"),
}
IMPORTED_IN = {
    "mlflow": ["cwm/infra/tracking.py"],
    "tensorboard": ["cwm/infra/event_file.py"],
    "metaworld": ["envs/metaworld.py"],
    "dm_control": ["envs/dmc.py"],
    "carla": ["envs/carla.py"],
}


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    name_of(path): path for top in ("cwm", "envs", "bench") for path in (ROOT / top).rglob("*.py")
}


@cache
def imports(path):
    """Names that a file imports anywhere; each may be a module or an object."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def ours(path):
    """Modules of ours that a file imports, also inside functions."""
    for name in imports(path):
        parent = name.rpartition(".")[0]
        if name in MODULES:
            yield name
        elif parent in MODULES and parent != "cwm":  # cwm/__init__.py has constants alone
            yield parent


def within(module, packages):
    return any(module == package or module.startswith(package + ".") for package in packages)


def test_imports_have_no_cycles():
    graph = {name: set(ours(path)) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    part = max((part for part in ALLOWED if within(module, [part])), key=len)
    for name in ours(MODULES[module]):
        assert within(name, (part, *ALLOWED[part])), f"{module} imports {name}"


@pytest.mark.parametrize("library", IMPORTED_IN)
def test_a_heavy_library_is_imported_in_one_place(library):
    found = [
        path.relative_to(ROOT).as_posix()
        for name, path in MODULES.items()
        if any(x.split(".")[0] == library for x in imports(path)) and not within(name, ["bench"])
    ]
    assert set(found) <= set(IMPORTED_IN[library])


def test_what_does_not_train_loads_no_torch():
    parts = "config study commands.own videos.collect videos.decode videos.build recorded.build"
    parts += " analysis.report analysis.figures"
    modules = ", ".join(["sys", "envs", *(f"cwm.{part}" for part in parts.split())])
    code = f"import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_training_core_needs_few_packages():
    """It runs where pandas, mlflow, Snakemake and the simulators are not installed."""
    code = """
import sys
for name in ("pandas", "pyarrow", "mlflow", "snakemake", "matplotlib", "scipy", "yaml", "ffmpeg",
             "imageio_ffmpeg", "mujoco", "metaworld", "dm_control"):
    sys.modules[name] = None
import cwm.agent, cwm.world.action_free, cwm.world.openloop, cwm.videos.store, cwm.train.replay
import cwm.train.pretrain, cwm.infra.checkpoint, cwm.infra.progress
"""
    subprocess.run([sys.executable, "-c", code], check=True)
