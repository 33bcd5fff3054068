"""Activation checkpointing gives equal bits in less memory."""

from copy import deepcopy

import pytest
import torch

import cwm.nn.attention
import cwm.nn.blocks
import cwm.nn.checkpointing
from cwm.nn.attention import ContextAttention
from cwm.nn.blocks import ResidualLayer
from cwm.settings import ContextConfig


def keep_everything(function, *inputs, norm=None):
    return function(*inputs)


def state(module, *inputs):
    """Output, gradients and buffers after forward and backward; bytes saved for backward."""
    module, kept = deepcopy(module).train(), {}

    def keep(x):
        kept[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = module(*inputs)
    out.square().sum().backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return [out.detach(), *gradients, *module.buffers()], sum(kept.values())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["residual layer", "attention"])
def test_checkpointing_gives_equal_bits_in_less_memory(name, half, monkeypatch):
    monkeypatch.setattr(cwm.nn.checkpointing, "LARGE", 0)
    torch.manual_seed(0)
    if name == "attention":
        module, inputs = ContextAttention(8, 8, ContextConfig()), [torch.randn(6, 8, 8, 8)]
        inputs += [torch.randn(2, 8, 8, 8), torch.arange(64).expand(6, -1)]
    else:
        module, inputs = ResidualLayer(4, 8), [torch.randn(6, 4, 8, 8)]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        ours, memory = state(module, *inputs)
        for file in (cwm.nn.attention, cwm.nn.blocks):
            monkeypatch.setattr(file, "checkpointed", keep_everything)
        plain, everything = state(module, *inputs)
    assert len(ours) == len(plain) > 4
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert memory < 0.85 * everything
