"""Encoder, context, decoder and RSSM are the official functions, given the same weights."""

import pytest
import torch
from golden import MODE, RSSM, Golden, close, keep, model_config, state

from cwm.nn import rssm
from cwm.nn.dists import categorical_entropy, categorical_kl, one_hot_sample
from cwm.world.losses import KLConfig, balanced_kl, squared_error
from cwm.world.vision import Vision

SIZES = (32, 16, 8)


@pytest.mark.parametrize("kind", ["plain", "ctx"])
def test_encoder(kind):
    golden = Golden(f"encoder_{kind}")
    vision = Vision(model_config(kind == "ctx")).double()
    golden.load(vision.encoder, "world.vision.encoder", theirs="wm.encoder.")
    if kind == "ctx":
        golden.load(vision.context, "world.vision.context", theirs="wm.encoder.")
    pixels = vision.pixels(golden.image("in/image"))
    embed = vision.train().embed(pixels)
    close(embed, golden["out/embed_train"])
    loss = embed.square().mean() / 2
    if kind == "ctx":
        context = vision.look(pixels, golden["in/context_index"].long())
        for size in SIZES:
            close(context[size], golden[f"out/shortcut_{size}"])
        loss = loss + sum(x.square().mean() / 2 for x in context.values())
    close(loss, golden["out/loss"])
    close(vision.eval().embed(pixels), golden["out/embed_eval"])
    if kind == "ctx":
        context = vision.look(pixels, golden["in/context_index"].long())
        for size in SIZES:
            close(context[size], golden[f"out/shortcut_{size}_eval"])


@pytest.mark.parametrize(("kind", "case"), [("plain", ""), ("ctx", "_nomask"), ("ctx", "_mask")])
def test_decoder(kind, case):
    golden = Golden(f"decoder_{kind}")
    vision = Vision(model_config(kind == "ctx")).double().train()
    golden.load(vision.decoder, "world.vision.decoder", theirs="wm.heads.decoder.")
    feat = golden["in/feat"].requires_grad_()
    context, kept = None, None
    if kind == "ctx":
        context = {size: golden[f"in/shortcut_{size}"].requires_grad_() for size in SIZES}
        everything = {8: torch.arange(64).expand(18, -1), 16: torch.arange(256).expand(18, -1)}
        kept = keep(golden, "in") if case == "_mask" else everything
    mean = vision.decoder(feat, context, kept)
    close(mean, golden[f"out/mean{case}"])
    target = vision.pixels(golden.image("in/target"))
    loss = squared_error(mean, target, axes=(-3, -2, -1))
    close(loss, golden[f"out/loss{case}"])
    loss.backward()
    close(feat.grad, golden[f"out/grad_feat{case}"])
    for size in (16, 8) if kind == "ctx" else ():
        close(context[size].grad, golden[f"out/grad_shortcut_{size}{case}"])


@pytest.mark.parametrize(("name", "embed", "action"), [("actionfree", 512, 0), ("action", 70, 3)])
@pytest.mark.parametrize("case", ["argmax", "gumbel"])
def test_rssm(name, embed, action, case):
    golden = Golden(f"rssm_{name}")
    model = rssm.RSSM(RSSM, embed, action).double()
    golden.load(model, "world.rssm", theirs="wm.rssm.")
    start = state(golden, "in/start")
    noise = golden["in/gumbel_post"] if case == "gumbel" else MODE
    actions = golden["in/action"]
    given = actions if action else None
    post, prior = model.observe(golden["in/embed"], given, golden["in/is_first"], start, noise)
    out = f"out/{case}"
    close(post.logit, golden[f"{out}/post/logit"])
    close(post.deter, golden[f"{out}/post/deter"])
    close(post.stoch, golden[f"{out}/post/stoch"])
    close(post.feat, golden[f"{out}/feat"])
    close(prior, golden[f"{out}/prior/logit"])
    prior_noise = golden["in/gumbel_prior"] if case == "gumbel" else MODE
    close(one_hot_sample(prior, prior_noise), golden[f"{out}/prior/stoch"])
    close(categorical_kl(post.logit, prior), golden[f"{out}/kl_value"])
    close(categorical_entropy(prior), golden[f"{out}/prior_entropy"])
    close(categorical_entropy(post.logit), golden[f"{out}/post_entropy"])
    for free in (0, 1, 100):
        kl = balanced_kl(post.logit, prior, KLConfig(free=free))
        close(kl, golden[f"{out}/kl_loss_free{free}"])

    imagined = start
    for t in range(actions.shape[1]):
        step = golden["in/gumbel_imagine"][:, t] if case == "gumbel" else MODE
        imagined = model.imagine_step(imagined, actions[:, t, :action], step)
        for part in ("deter", "stoch", "logit"):
            close(getattr(imagined, part), golden[f"{out}/imagine/{part}"][:, t])
