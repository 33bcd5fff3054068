"""An update and an action can be captured in a graph, and are the same in one and compiled.

What needs a GPU is skipped without one; it is then not known to work.
"""

import contextlib
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from cwm import config
from cwm.agent import Agent
from cwm.compiled import compile_regions
from cwm.data.batch import Batch
from cwm.runtime import reseed
from cwm.world.vision import Draws

ROOT = Path(__file__).parents[1] / "config"
MODELS, VARIANTS = (
    sorted(path.stem for path in (ROOT / folder).glob("*.yaml")) for folder in ("model", "variant")
)
CASES = [(model, "standard") for model in MODELS] + [("contextwm", v) for v in VARIANTS]
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def made(model="contextwm", variant="standard", device="cpu"):
    """An agent, and a batch for it."""
    names = {"suite": "metaworld", "scale": "smoke", "model": model, "variant": variant}
    files = [ROOT / folder / f"{name}.yaml" for folder, name in names.items()]
    cfg = config.load(files, task="reach")
    reseed("weights")
    agent = Agent(cfg.model, cfg.finetune.agent, action_dim=4).to(device)
    is_first = torch.zeros(3, 8)
    is_first[:, 0] = 1
    image = torch.randint(0, 256, (3, 8, 64, 64, 3), dtype=torch.uint8)
    batch = Batch(image, is_first, torch.randn(3, 8, 4), torch.rand(3, 8))
    return agent, Batch(*(x.to(device) for x in batch))


@pytest.mark.parametrize(("model", "variant"), CASES)
def test_nothing_in_an_update_depends_on_a_value(model, variant, monkeypatch):
    """Tensors without values: whoever wants to read one, or moves one between devices, raises."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    agent, batch = made(model, variant, "meta")
    agent.train()
    assert agent.learn(*batch)["image"].device.type == "meta"


@on_a_gpu
@pytest.mark.parametrize(("model", "variant"), CASES)
def test_a_captured_update_is_the_same(model, variant):
    eager, batch = made(model, variant, "cuda")
    captured = deepcopy(eager)
    captured.optimizers = captured._optimizers()
    captured.capture()
    for i in range(4):
        found = []
        for agent in (eager, captured):
            reseed("update", i)
            found.append({name: x.item() for name, x in agent.update(batch).items()})
        assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-4)


@on_a_gpu
def test_a_captured_action_is_the_same():
    eager, batch = made(device="cuda")
    captured = deepcopy(eager)
    captured.capture()
    carried = [None, None]
    for t in range(4):
        actions = []
        for i, agent in enumerate((eager, captured)):
            reseed("act", t)
            seen = batch.image[:, t].cpu().numpy(), batch.is_first[:, t].cpu().numpy()
            action, carried[i] = agent.act(*seen, carried[i], explore=True)
            actions.append(action)
        assert actions[1] == pytest.approx(actions[0], abs=1e-4)


def test_a_compiled_update_is_the_same(tmp_path, monkeypatch):
    """On a CPU the smallest network, since compiling takes minutes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    gpu = torch.cuda.is_available()
    eager, batch = made("contextwm", device="cuda") if gpu else made("dreamer")
    compiled = deepcopy(eager)
    compiled.optimizers = compiled._optimizers()
    compile_regions(compiled)
    # Chance in what is compiled is another, so the tokens that a frame sees are given.
    tokens = {n: torch.arange(n * n // 4, device=batch.image.device) for n in (8, 16)}
    draws = Draws(keep={n: some.expand(24, -1) for n, some in tokens.items()})
    found = []
    for agent in (eager, compiled):
        reseed("update")
        found.append({name: x.item() for name, x in agent.update(batch, None, draws).items()})
    assert found[1] == pytest.approx(found[0], rel=1e-3)
