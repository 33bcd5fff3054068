"""Distributions as plain functions of tensors.

Noise is always an argument: a caller may draw it, repeat it, or pass zeros to get the mode.

Shapes: S latent variables, K classes of each, A action dimensions; leading axes are free.
"""

import math

import torch
from torch import Tensor

from cwm.nn.whole_batch import draw

LOG_SQRT_2PI_E = 0.5 * math.log(2 * math.pi * math.e)
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def full(x: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64 unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def gumbel(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard Gumbel noise of `shape`, so that argmax(logits + noise) is a categorical sample."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    # A uniform 0, drawn once in 16 million, becomes -inf: that class is then never sampled.
    rows, *others = shape
    uniform = draw(lambda n: torch.rand(n, *others, dtype=dtype, device=like.device), rows)
    return -uniform.log().neg().log()


def one_hot_sample(logits: Tensor, noise: Tensor) -> Tensor:
    """One-hot of argmax(logits + noise) over the last axis, with the gradient of the softmax.

    Straight-through estimator of DreamerV2 (section 2.1): onehot + p - sg(p).
    """
    logits = full(logits)
    probs = logits.softmax(-1)
    best = (logits + noise).argmax(-1, keepdim=True)
    hard = torch.zeros_like(probs).scatter_(-1, best, 1.0)
    return hard + (probs - probs.detach())


def categorical_kl(post: Tensor, prior: Tensor) -> Tensor:
    """KL[post || prior] of logits (..., S, K), summed over the S variables, as (...)."""
    log_post, log_prior = full(post).log_softmax(-1), full(prior).log_softmax(-1)
    return (log_post.exp() * (log_post - log_prior)).sum((-2, -1))


def categorical_entropy(logits: Tensor) -> Tensor:
    """Entropy of logits (..., S, K), summed over the S variables, as (...)."""
    log_probs = full(logits).log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum((-2, -1))


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _pdf(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square() - LOG_SQRT_2PI)


def truncated_normal_sample(loc: Tensor, scale: Tensor, uniform: Tensor) -> Tensor:
    """Reparameterised sample (..., A) of a normal truncated to [-1, 1], by its inverse CDF.

    `uniform` lies in (0, 1). The result is clamped to +-(1 - 1e-6), with the gradient passed
    straight through the clamp.
    """
    low, high = _cdf((-1 - loc) / scale), _cdf((1 - loc) / scale)
    below_1 = 1 - torch.finfo(loc.dtype).eps / 2  # erfinv(1) is infinite
    at = (2 * (low + uniform * (high - low)) - 1).clamp(-below_1, below_1)
    x = loc + scale * math.sqrt(2) * torch.erfinv(at)
    return x + (x.clamp(-1 + 1e-6, 1 - 1e-6) - x).detach()


def truncated_normal_entropy(loc: Tensor, scale: Tensor) -> Tensor:
    """Entropy of a normal truncated to [-1, 1], summed over the last axis."""
    a, b = (-1 - loc) / scale, (1 - loc) / scale
    mass = _cdf(b) - _cdf(a)
    shape = (b * _pdf(b) - a * _pdf(a)) / (2 * mass)
    return (LOG_SQRT_2PI_E + (scale * mass).log() - shape).sum(-1)
