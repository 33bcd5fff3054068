"""Building blocks in half precision, which the golden arrays do not cover."""

import torch

from cwm.nn.blocks import MLP
from cwm.settings import MLPConfig


def test_mlp_outputs_are_float32_under_autocast():
    """Values reach 1000 in Meta-world, where bfloat16 rounds to steps of 4."""
    torch.manual_seed(0)
    critic = MLP(MLPConfig(layers=1, units=64), 8, [1])
    torch.nn.init.constant_(critic.out[0].bias, 1000.0)
    feat = torch.randn(32, 8)
    with torch.autocast("cpu", torch.bfloat16):
        value = critic(feat)[0]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, critic(feat)[0], rtol=0, atol=0.05)
