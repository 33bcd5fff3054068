"""Samples of a truncated normal whose mean lies at a bound."""

import math

import pytest
import torch

from cwm.behavior.actor_critic import TruncatedNormal
from cwm.nn import dists


def test_sample_is_finite_where_its_probability_rounds_to_1():
    """Values from a Cartpole Swingup run that became NaN at update 2522."""
    loc = torch.tensor([-0.9999993443489075], requires_grad=True)
    scale = torch.tensor([0.1003350168466568], requires_grad=True)
    x = TruncatedNormal(loc, scale).sample(torch.tensor([0.99999994]))
    x.sum().backward()
    assert -0.5 < x.item() < -0.4  # five and a third scales above the bound that loc lies at
    assert loc.grad.isfinite().all() and scale.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_are_finite_at_bounds_and_match_the_formula(dtype):
    eps = torch.finfo(dtype).eps
    near = torch.cat([torch.logspace(-9, 0, 300, dtype=dtype), torch.zeros(1, dtype=dtype)])
    loc = torch.cat([near - 1, 1 - near])[:, None, None]
    scale = torch.cat([0.1 + near / 100, 2 * near + 0.1])[None, :, None]
    uniform = torch.tensor([eps, 2 * eps, 0.3, 0.5, 1 - 2 * eps, 1 - eps], dtype=dtype)
    loc, scale, uniform = torch.broadcast_tensors(loc, scale, uniform)
    low, high = (0.5 * (1 + torch.erf((end - loc) / scale / math.sqrt(2))) for end in (-1, 1))
    at = 2 * (low + uniform * (high - low)) - 1
    plain = (loc + scale * math.sqrt(2) * torch.erfinv(at)).clamp(-1 + 1e-6, 1 - 1e-6)
    x = dists.truncated_normal_sample(loc, scale, uniform)
    assert x.isfinite().all()
    assert (x - plain)[at.abs() < 1].abs().max() <= 4 * eps
    assert (x.abs() <= 1).all()
