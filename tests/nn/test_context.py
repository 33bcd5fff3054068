"""The context: which frame it is, and what a decoded frame sees of it."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cwm.nn.attention import ContextAttention, attend, random_tokens
from cwm.nn.context import choose
from cwm.settings import ContextConfig, ModelConfig, RSSMConfig, VisionConfig
from cwm.world.vision import Vision

SMALL = ModelConfig(
    vision=VisionConfig(depth=4),
    context=ContextConfig(dropout=0.0),
    rssm=RSSMConfig(deter=8, stoch=2, classes=2, hidden=8),
)
CONCAT = replace(SMALL, context=ContextConfig(fusion="concat"))


def test_choose_returns_the_configured_frame():
    device = torch.device("cpu")
    assert choose("first", 3, 5, device).tolist() == [0, 0, 0]
    assert choose("last", 3, 5, device).tolist() == [4, 4, 4]
    torch.manual_seed(0)
    drawn = choose("random", 1000, 5, device)
    assert drawn.bincount(minlength=5).min() > 150


def test_each_frame_has_its_own_random_tokens():
    torch.manual_seed(0)
    tokens = random_tokens(100, 64, 0.75, torch.zeros(1))
    assert tokens.shape == (100, 16)
    assert all(len(set(row.tolist())) == 16 for row in tokens)
    assert len({tuple(sorted(row.tolist())) for row in tokens}) == 100


def test_attention_is_random_in_training_only():
    torch.manual_seed(0)
    attention = ContextAttention(8, 8, ContextConfig(dropout=0.1)).eval()
    x, context = torch.randn(6, 8, 8, 8), torch.randn(2, 8, 8, 8)
    everything = torch.arange(64).expand(6, -1)
    torch.testing.assert_close(attention(x, context, None), attention(x, context, everything))
    attention.train()
    assert not torch.equal(attention(x, context, None), attention(x, context, None))


@pytest.mark.parametrize(("channels", "size"), [(16, 16), (32, 8)])
def test_sinusoidal_positions_start_by_attending_to_the_same_place(channels, size):
    """Also where the two frames differ; learned positions start nearly even."""
    torch.manual_seed(0)
    x, context = torch.randn(3, channels, size, size), torch.randn(1, channels, size, size)
    sinusoidal = ContextConfig(heads=1, positions="sinusoidal")
    own = [
        ContextAttention(channels, size, cfg).attention_weights(x, context).diagonal(0, 1, 2).mean()
        for cfg in (sinusoidal, ContextConfig())
    ]
    assert own[0] > 0.5
    assert own[1] < 3 / size**2


def test_attention_with_sinusoidal_positions_starts_by_adding_nothing_and_learns():
    torch.manual_seed(0)
    attention = ContextAttention(8, 8, ContextConfig(dropout=0, positions="sinusoidal"))
    x, context = torch.randn(6, 8, 8, 8), torch.randn(2, 8, 8, 8)
    result = attention(x, context, None)
    assert torch.equal(result, x.relu())
    result.square().sum().backward()
    assert attention.norm.weight.grad.abs().min() > 0


def test_values_have_no_sinusoidal_positions():
    """An even context gives every place the same value, so the result does not depend on x."""
    torch.manual_seed(0)
    attention = ContextAttention(8, 8, ContextConfig(dropout=0, positions="sinusoidal"))
    _, tokens = attention.project(torch.randn(1, 8, 8, 8), torch.ones(1, 8, 8, 8))
    keys, values = tokens.chunk(2, -1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    assert not torch.equal(keys, keys[:, :1].expand_as(keys))


def test_frames_attend_to_their_own_clip_only():
    torch.manual_seed(0)
    attention = ContextAttention(8, 8, ContextConfig(dropout=0.0)).eval()
    x, context = torch.randn(6, 8, 8, 8), torch.randn(2, 8, 8, 8)
    before = attention(x, context, None)
    context[1] += 1
    after = attention(x, context, None)
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3:], after[3:])


def test_plain_model_has_no_context_parameters():
    plain = Vision(replace(SMALL, context=None))
    assert plain.encode_context(torch.zeros(1, 2, 3, 64, 64)) is None
    extra = set(Vision(SMALL).state_dict()) - set(plain.state_dict())
    assert {name.split(".")[0] for name in extra} == {"context", "decoder"}


def test_concatenation_widens_two_convolutions_and_has_no_attention():
    """At 8 and 16 pixels the first convolution reads as many channels of the context as of x."""
    plain = Vision(replace(SMALL, context=None)).decoder.state_dict()
    wider = Vision(CONCAT).decoder.state_dict()
    assert wider.keys() == plain.keys()
    assert {
        name: (tuple(x.shape), tuple(plain[name].shape))
        for name, x in wider.items()
        if x.shape != plain[name].shape
    } == {
        "stages.0.0.conv1.weight": ((16, 32, 3, 3), (16, 16, 3, 3)),
        "stages.1.0.conv1.weight": ((8, 16, 3, 3), (8, 8, 3, 3)),
    }


def test_concatenation_with_zero_weights_equals_plain_decoder():
    """A convolution of x and the context is the sum of two; without the second, a plain decoder."""
    torch.manual_seed(0)
    plain = Vision(replace(SMALL, context=None)).double().eval().decoder
    decoder = Vision(CONCAT).double().eval().decoder
    state = dict(plain.state_dict())
    for i, channels in enumerate((16, 8)):
        name = f"stages.{i}.0.conv1.weight"
        state[name] = torch.cat([state[name], torch.zeros_like(state[name])], 1)
        assert state[name].shape[1] == 2 * channels
    decoder.load_state_dict(state)
    feat = torch.randn(2, 3, 12, dtype=torch.float64)
    context = {size: torch.randn(2, 128 // size, size, size).double() for size in (8, 16, 32)}
    torch.testing.assert_close(decoder(feat, context), plain(feat), rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="needs the features"):
        decoder(feat)


@pytest.mark.parametrize(("size", "seen"), [(8, True), (16, True), (32, False)])
@pytest.mark.parametrize("model", [SMALL, CONCAT], ids=["attention", "concat"])
def test_decoder_reads_own_context_at_8_and_16_pixels_only(model, size, seen):
    torch.manual_seed(0)
    decoder = Vision(model).eval().decoder
    feat = torch.randn(2, 3, 12)
    context = {size: torch.randn(2, 128 // size, size, size) for size in (8, 16, 32)}
    before = decoder(feat, context)
    context[size][1] += 1
    after = decoder(feat, context)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1]) != seen


def test_concatenation_is_deterministic_in_training():
    """Nothing is random in training either: no tokens, no dropout."""
    torch.manual_seed(0)
    decoder = Vision(CONCAT).train().decoder
    feat = torch.randn(2, 3, 12)
    context = {size: torch.randn(2, 128 // size, size, size) for size in (8, 16, 32)}
    state = torch.get_rng_state()
    assert torch.equal(decoder(feat, context), decoder(feat, context))
    assert torch.equal(torch.get_rng_state(), state)


class Largest(TorchDispatchMode):
    """Notes the most numbers in any result of an operation."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for result in out if isinstance(out, tuple) else (out,):
            if isinstance(result, torch.Tensor):
                self.numbers = max(self.numbers, result.numel())
        return out


def test_attention_never_holds_all_weights_and_is_equal():
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 4, 64, 2).requires_grad_()  # of two frames
    with Largest() as fused:
        found = attend(queries, keys, values, 0.0)
    assert fused.numbers < 2 * 4 * 64 * 64
    torch.testing.assert_close(found, (queries @ keys.mT / 2**0.5).softmax(-1) @ values)
