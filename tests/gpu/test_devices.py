"""Without a GPU, fake_cuda.py finds device mismatches and reads of values.

The fake device needs a CPU build of torch and a C++ compiler.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU build of torch"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """The error of each case on the fake device, by name; "" for none."""
    guard = tmp_path_factory.mktemp("guard") / "guard.so"
    include, lib = (Path(torch.__file__).parent / name for name in ("include", "lib"))
    command = ["g++", "-shared", "-fPIC", "-std=c++20", f"-I{include}", HERE / "guard.cpp"]
    command += [f"-L{lib}", f"-Wl,-rpath,{lib}", "-lc10", "-ltorch_cpu", "-o", guard]
    subprocess.run(command, check=True)
    call = [sys.executable, "-W", "ignore", HERE / "fake_cuda.py"]
    env = os.environ | {"LD_PRELOAD": str(guard), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_captured_code_stays_on_the_gpu_and_waits_for_nothing(errors):
    """Updates and actions of every model and variant, and held-out predictions."""
    cases = {name: error for name, error in errors.items() if not name.startswith("wrong")}
    assert sum(name.startswith("finetune") for name in cases) > 15
    assert sum(name.startswith("pretrain") for name in cases) > 5
    assert {name: error for name, error in cases.items() if error} == {}


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("mixed", "two devices, cuda:0 and cpu"),
        ("scalar_of_the_cpu", "aten.add.Tensor uses a tensor of the CPU"),
        ("index_of_the_cpu", "aten.index.Tensor uses a tensor of the CPU"),
        ("chance", "aten.rand.default draws random numbers"),
        ("value", "DataDependentOutputException: aten._local_scalar_dense"),
    ],
)
def test_fake_device_detects_gpu_errors(errors, case, error):
    assert error in errors[f"wrong: {case}"]
