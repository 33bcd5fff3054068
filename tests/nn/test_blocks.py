"""Building blocks, where the reference's arrays do not reach: half precision."""

import torch

from cwm.nn.blocks import MLP, MLPConfig


def test_large_values_are_not_rounded_in_half_precision():
    """A critic of Meta-world says 1000; in bfloat16 the next number is 1004."""
    torch.manual_seed(0)
    critic = MLP(MLPConfig(layers=1, units=64), 8, [1])
    torch.nn.init.constant_(critic.out[0].bias, 1000.0)
    feat = torch.randn(32, 8)
    with torch.autocast("cpu", torch.bfloat16):
        value = critic(feat)[0]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, critic(feat)[0], rtol=0, atol=0.05)
