"""The context: which frame it is, and what a decoded frame sees of it."""

import torch

from cwm.nn.attention import ContextAttention, random_tokens
from cwm.nn.context import ContextConfig, choose
from cwm.nn.encoder import VisionConfig
from cwm.nn.rssm import RSSMConfig
from cwm.world.vision import ModelConfig, Vision


def test_the_context_frame_is_the_one_asked_for():
    device = torch.device("cpu")
    assert choose("first", 3, 5, device).tolist() == [0, 0, 0]
    assert choose("last", 3, 5, device).tolist() == [4, 4, 4]
    torch.manual_seed(0)
    drawn = choose("random", 1000, 5, device)
    assert drawn.bincount(minlength=5).min() > 150


def test_each_frame_draws_its_own_tokens():
    torch.manual_seed(0)
    tokens = random_tokens(100, 64, 0.75, torch.zeros(1))
    assert tokens.shape == (100, 16)
    assert all(len(set(row.tolist())) == 16 for row in tokens)
    assert len({tuple(sorted(row.tolist())) for row in tokens}) == 100


def test_attention_is_random_in_training_only():
    torch.manual_seed(0)
    attention = ContextAttention(8, 8, dropout=0.1).eval()
    x, context = torch.randn(6, 8, 8, 8), torch.randn(2, 8, 8, 8)
    everything = torch.arange(64).expand(6, -1)
    torch.testing.assert_close(attention(x, context, None), attention(x, context, everything))
    attention.train()
    assert not torch.equal(attention(x, context, None), attention(x, context, None))


def test_frames_of_a_clip_see_its_own_context():
    torch.manual_seed(0)
    attention = ContextAttention(8, 8, dropout=0.0).eval()
    x, context = torch.randn(6, 8, 8, 8), torch.randn(2, 8, 8, 8)
    before = attention(x, context, None)
    context[1] += 1
    after = attention(x, context, None)
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3:], after[3:])


def test_a_plain_model_is_one_without_context():
    cfg = {"vision": VisionConfig(depth=4), "rssm": RSSMConfig(8, 2, 2, 8)}
    plain = Vision(ModelConfig(context=None, **cfg))
    assert plain.look(torch.zeros(1, 2, 3, 64, 64)) is None
    contextual = Vision(ModelConfig(context=ContextConfig(), **cfg))
    extra = set(contextual.state_dict()) - set(plain.state_dict())
    assert {name.split(".")[0] for name in extra} == {"context", "decoder"}
