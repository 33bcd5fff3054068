"""Compiled regions match eager mode, and a missing compiler is an error."""

import sysconfig
from copy import deepcopy

import pytest
import torch

from bench import inputs
from cwm.infra.device import reseed
from cwm.infra.errors import UserError
from cwm.train.compiled import compile_regions, require_compiler
from cwm.world.vision import RandomInputs


def test_compiled_update_matches_eager(tmp_path, monkeypatch):
    """A CPU compiles for minutes, so there it uses the smallest network."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, device = ("contextwm", "cuda") if torch.cuda.is_available() else ("dreamer", "cpu")
    eager = inputs.agent(model, "standard", "smoke", "fp32", device)
    batch = inputs.batch(3, 8, device)
    compiled = deepcopy(eager)
    compiled.optimizers = compiled._optimizers()
    compile_regions(compiled)
    # Compiled code draws other random numbers, so the kept tokens are given.
    tokens = {n: torch.arange(n * n // 4, device=device) for n in (8, 16)}
    random = RandomInputs(keep={n: some.expand(24, -1) for n, some in tokens.items()})
    found = []
    for agent in (eager, compiled):
        reseed("update")
        found.append({name: x.item() for name, x in agent.update(batch, None, random).items()})
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize(
    ("device", "named"),
    [("cuda", r"a compiler \(gcc or clang\)"), ("cpu", r"\(g\+\+ or clang\+\+\)")],
)
def test_missing_compiler_is_an_error(monkeypatch, device, named):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    require_compiler(device)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=named):
        patch.setenv("PATH", "/nowhere")
        require_compiler(device)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="nvcc-like"):
        patch.setenv("CC" if device == "cuda" else "CXX", "nvcc-like")
        require_compiler(device)
    with monkeypatch.context() as patch:
        patch.setenv("CC" if device == "cuda" else "CXX", "env gcc")  # a compiler and arguments
        require_compiler(device)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": "/nowhere"})
    with pytest.raises(UserError, match=r"Python's headers \(/nowhere/Python.h\); on Debian"):
        require_compiler(device)
