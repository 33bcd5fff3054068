"""The stacked model's loss contains the weighted terms and no others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cwm.config import load
from cwm.nn.batch import Batch
from cwm.settings import MLPConfig, ModelConfig, RSSMConfig, VisionConfig
from cwm.world.losses import balanced_kl
from cwm.world.stacked import StackedModel

ROOT = Path(__file__).parents[2] / "config"
SMALL = ModelConfig(VisionConfig(depth=4, layers=1), rssm=RSSMConfig(8, 3, 4, 8, action_pad=2))


def loss_of(variant):
    """The model of a variant and its output for one batch."""
    files = [ROOT / "model/contextwm.yaml", ROOT / f"variant/{variant}.yaml"]
    cfg = replace(load(files).finetune.agent.world, head=MLPConfig(1, 8))
    torch.manual_seed(0)
    model = StackedModel(SMALL, cfg, action_dim=1)
    image = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    is_first = torch.tensor([[1.0, 0, 0]] * 2)
    output = model.loss(Batch(image, is_first, torch.rand(2, 3, 1), torch.rand(2, 3)))
    return model, output


def test_weighted_action_free_kl_is_in_the_loss():
    _, without = loss_of("standard")
    model, weighted = loss_of("action-free-kl")
    free = weighted.free
    by_hand = balanced_kl(free.logit, model.action_free.prior(free.deter), model.cfg.kl)
    assert weighted.terms["action_free_kl"].item() == pytest.approx(by_hand.item(), rel=1e-6)
    difference = weighted.loss.item() - without.loss.item()
    assert difference == pytest.approx(by_hand.item(), rel=1e-3)
    assert by_hand.item() > 0.01


@pytest.mark.parametrize(("variant", "learns"), [("standard", False), ("action-free-kl", True)])
def test_only_action_free_kl_trains_the_action_free_prior(variant, learns):
    model, output = loss_of(variant)
    prior, post = model.action_free.prior_logit.weight, model.action_free.post_logit.weight
    to_prior, to_post = torch.autograd.grad(output.loss, [prior, post])
    assert (to_prior.norm() > 0) == learns
    assert to_post.norm() > 0
