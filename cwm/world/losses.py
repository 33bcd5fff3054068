"""Loss terms of the world models: pure functions of tensors.

Shapes: B batch, T time, S latent variables of K classes.
"""

import math
from functools import reduce
from operator import add

import torch.nn.functional as F
from torch import Tensor

from cwm.nn.dists import categorical_kl, full
from cwm.nn.whole_batch import shared_mean
from cwm.settings import KLConfig


def balanced_kl(post: Tensor, prior: Tensor, cfg: KLConfig) -> Tensor:
    """KL loss that trains the prior faster than the posterior.

    balance * max(KL[sg(post) || prior], free) + (1 - balance) * max(KL[post || sg(prior)], free)

    post, prior: logits (B, T, S, K). Free nats clip the mean over B and T, as in the reference.
    """
    learn_prior = shared_mean(categorical_kl(post.detach(), prior).mean()).clamp(min=cfg.free)
    learn_post = shared_mean(categorical_kl(post, prior.detach()).mean()).clamp(min=cfg.free)
    return cfg.balance * learn_prior + (1 - cfg.balance) * learn_post


def squared_error(mean: Tensor, target: Tensor, axes: tuple[int, ...] = ()) -> Tensor:
    """Half the squared error, summed over `axes` and averaged over the other axes.

    Equals the negative log-likelihood of a unit-variance normal up to a constant.
    """
    summed = math.prod(mean.shape[axis] for axis in axes)
    return 0.5 * summed * F.mse_loss(full(mean), target)


def total(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Weighted sum of named terms; ValueError unless both have the same names."""
    if losses.keys() != weights.keys():
        raise ValueError(f"losses {sorted(losses)} but weights {sorted(weights)}")
    return reduce(add, (weights[name] * loss for name, loss in losses.items()))
