"""Loss terms against hand-computed values."""

import math

import pytest
import torch
from torch import tensor

from cwm.settings import KLConfig
from cwm.world.losses import balanced_kl, squared_error, total

# One latent of two classes: probabilities (3/4, 1/4) against (1/2, 1/2).
POST = tensor([[[[math.log(3.0), 0.0]]]])
PRIOR = tensor([[[[0.0, 0.0]]]])
KL = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)


def test_kl_value_is_independent_of_balance():
    for balance in (0.5, 0.8):
        kl = balanced_kl(POST, PRIOR, KLConfig(balance=balance, free=0.0))
        assert kl.item() == pytest.approx(KL, rel=1e-6)


def test_free_nats_clip_the_mean_and_stop_the_gradient():
    post = torch.cat([POST, PRIOR], 1).requires_grad_()  # KL, 0: their mean is KL / 2
    prior = torch.cat([PRIOR, PRIOR], 1)
    free = balanced_kl(post, prior, KLConfig(free=1.0))
    assert free.item() == pytest.approx(1.0)
    (gradient,) = torch.autograd.grad(free, post)
    assert gradient.abs().max() == 0
    below = balanced_kl(post, prior, KLConfig(free=0.4 * KL))
    assert below.item() == pytest.approx(KL / 2, rel=1e-6)


def test_balance_scales_the_gradients():
    post, prior = POST.clone().requires_grad_(), PRIOR.clone().requires_grad_()
    kl = balanced_kl(post, prior, KLConfig(balance=0.8))
    to_post, to_prior = torch.autograd.grad(kl, [post, prior])
    # d KL / d prior logit = prior - post probability; d KL / d post logit = p (log p/q - KL).
    assert to_prior.flatten().tolist() == pytest.approx([-0.8 * 0.25, 0.8 * 0.25], rel=1e-5)
    first = 0.75 * (math.log(1.5) - KL)
    assert to_post.flatten().tolist() == pytest.approx([0.2 * first, -0.2 * first], rel=1e-5)


def test_squared_error_sums_some_axes_and_averages_the_rest():
    error = squared_error(tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2), axes=(-1,))
    assert error.item() == 0.5 * (1 + 4) / 2


def test_every_term_has_a_weight():
    losses = {"image": tensor(2.0), "kl": tensor(3.0)}
    assert total(losses, {"image": 1.0, "kl": 0.5}).item() == 3.5
    with pytest.raises(ValueError, match="reward"):
        total(losses, {"image": 1.0, "reward": 1.0})
