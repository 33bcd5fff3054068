"""Every model and variant in `config/` trains, and its settings change the result."""

import functools
import math
from pathlib import Path

import pytest
import torch

from cwm import config
from cwm.agent import Agent
from cwm.nn.batch import Batch, clip_batch
from cwm.nn.optim import Optimizer, step_all
from cwm.world.action_free import ActionFreeModel

ROOT = Path(__file__).parents[1] / "config"
MODELS, VARIANTS = (
    sorted(path.stem for path in (ROOT / folder).glob("*.yaml")) for folder in ("model", "variant")
)
SUITES = {"toy": "sphere", "metaworld": "reach"}  # with unaugmented and with erased contexts
# At smoke scale one differs in the number of updates alone, the other not at all.
EQUAL = {"contextwm", "contextwm-8000", "contextwm-learned-positions"}
LEARNING = ("model", "pretrain", "finetune")
UPDATES = 2


def settings(suite="toy", model="contextwm", variant="standard"):
    names = {"suite": suite, "scale": "smoke", "model": model, "variant": variant}
    files = [ROOT / folder / f"{name}.yaml" for folder, name in names.items()]
    return config.load(files, task=SUITES[suite])


def images(seed):
    return torch.randint(0, 256, (4, 8, 64, 64, 3), generator=seed, dtype=torch.uint8)


@functools.cache
def pretrained(model="contextwm"):
    """A model after UPDATES updates on noise, and the terms of its last loss."""
    cfg = settings(model=model)
    torch.manual_seed(0)
    noise = torch.Generator().manual_seed(1)
    world = ActionFreeModel(cfg.model, cfg.pretrain.world).train()
    optimizer = Optimizer(cfg.pretrain.optimizer, world.parameters())
    for _ in range(UPDATES):
        watched = world.loss(clip_batch(images(noise)))
        step_all(watched.loss, [optimizer])
    return world, {name: x.item() for name, x in watched.terms.items()}


@functools.cache
def finetuned(suite="toy", model="contextwm", variant="standard", start=False):
    """Metrics of the last of UPDATES updates on noise; `start`: from a pre-trained model."""
    cfg = settings(suite, model, variant)
    world = pretrained(model)[0] if start else None
    torch.manual_seed(0)
    noise = torch.Generator().manual_seed(1)
    agent = Agent(cfg.model, cfg.finetune.agent, action_dim=2)
    if start:
        agent.world.vision.load_state_dict(world.vision.state_dict())
        agent.world.action_free.load_state_dict(world.rssm.state_dict())
    is_first = torch.zeros(4, 8)
    is_first[:, 0] = 1
    for _ in range(UPDATES):
        action, reward = torch.randn(4, 8, 2, generator=noise), torch.rand(4, 8, generator=noise)
        figures = agent.update(Batch(images(noise), is_first, action, reward))
    return {name: x.item() for name, x in figures.items()}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_trains_on_videos_and_on_experience(model):
    stacked = settings(model=model).model.stacked
    found, usual = finetuned(model=model, start=stacked), finetuned(start=True)
    assert all(map(math.isfinite, found.values()))
    assert (found["image"] == usual["image"]) == (model in EQUAL)
    if stacked:
        (_, found), (_, usual) = pretrained(model), pretrained()
        assert all(map(math.isfinite, found.values()))
        assert (found["image"] == usual["image"]) == (model in EQUAL)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "contextwm"])
def test_a_model_has_settings_of_its_own_at_evidence_scale(model):
    found, usual = (
        config.load([ROOT / "scale/evidence.yaml", ROOT / f"model/{name}.yaml"])
        for name in (model, "contextwm")
    )
    assert config.resolved(found, LEARNING) != config.resolved(usual, LEARNING)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_the_losses_exactly_where_its_settings_differ(variant, suite):
    found, usual = finetuned(suite, variant=variant), finetuned(suite)
    assert all(map(math.isfinite, found.values()))
    own, standard = settings(suite, variant=variant), settings(suite)
    differ = config.resolved(own, LEARNING) != config.resolved(standard, LEARNING)
    assert any(found[name] != usual[name] for name in found.keys() & usual.keys()) == differ


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_standard_variant_changes_no_setting(variant):
    differs = any(settings(suite, variant=variant) != settings(suite) for suite in SUITES)
    assert differs == (variant != "standard")


def test_without_dual_reward_the_only_predictor_learns_the_bonus():
    parts = {}
    for variant in ("standard", "no-dual-reward"):
        cfg = settings(variant=variant)
        parts[variant] = dict(Agent(cfg.model, cfg.finetune.agent, 2).named_children())
        parts[variant] |= dict(parts[variant]["world"].named_children())
    assert parts["standard"].keys() - parts["no-dual-reward"].keys() == {"aux_reward"}
    assert {"reward", "bonus"} <= parts["no-dual-reward"].keys()
    figures = finetuned(variant="no-dual-reward")
    assert "reward" in figures
    assert "aux_reward" not in figures
