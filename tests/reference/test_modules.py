"""Encoder, context, decoder and RSSM are the official functions, given the same weights."""

import pytest
import torch
from golden import (
    ABOUT,
    MODE,
    RSSM,
    Golden,
    close,
    close_gradients,
    close_state,
    close_statistics,
    gradient_norm,
    in_float64_and_float32,
    keep,
    margin,
    model_config,
    state,
    weight,
)

from cwm.nn import rssm
from cwm.nn.dists import categorical_entropy, categorical_kl, one_hot_sample
from cwm.nn.rssm import State
from cwm.settings import KLConfig
from cwm.world.losses import balanced_kl, squared_error
from cwm.world.vision import Vision

SIZES = (32, 16, 8)


def test_weights_are_derived_from_their_names():
    """NumPy may one day draw other normal numbers; then this test says why all the others fail."""
    drawn = weight("encoder.convin.bias", (2,), seed=0).tolist()
    assert drawn == pytest.approx([0.0605296269, 0.0998136103])


@in_float64_and_float32
@pytest.mark.parametrize("kind", ["plain", "ctx"])
def test_encoder(kind, numbers):
    golden = Golden(f"encoder_{kind}", numbers)
    vision = numbers.cast(Vision(model_config(kind == "ctx")))
    parts = {"encoder": vision.encoder} | ({"context": vision.context} if kind == "ctx" else {})
    for name, part in parts.items():
        golden.load(part, f"world.vision.{name}", theirs="wm.encoder.")
    pixels = vision.pixels(golden.image("image"))
    embed = vision.train().embed(pixels)
    close(embed, golden["out/embed_train"])
    loss = embed.square().mean() / 2
    if kind == "ctx":
        context = vision.encode_context(pixels, golden.input("context_index"))
        for size in SIZES:
            close(context[size], golden[f"out/shortcut_{size}"])
        loss = loss + sum(x.square().mean() / 2 for x in context.values())
    close(loss, golden["out/loss"])
    loss.backward()
    for name, part in parts.items():
        close_gradients(golden, part, f"world.vision.{name}", "wm.encoder.")
        close_statistics(golden, part, f"world.vision.{name}", "wm.encoder.")
    parameters = [p for part in parts.values() for p in part.parameters()]
    close(gradient_norm(parameters), golden["grad_total_norm"])

    embed = vision.eval().embed(pixels)
    close(embed, golden["out/embed_eval"])
    if kind == "ctx":
        close(embed, golden["out/embed_eval_policy_path"])
        context = vision.encode_context(pixels, golden.input("context_index"))
        for size in SIZES:
            close(context[size], golden[f"out/shortcut_{size}_eval"])
    assert not golden.unread()


@in_float64_and_float32
def test_decoder(numbers):
    golden = Golden("decoder_plain", numbers)
    check_decoder(golden, "", None)
    assert not golden.unread()


@in_float64_and_float32
def test_context_decoder(numbers):
    golden = Golden("decoder_ctx", numbers)
    frames = len(golden.input("feat").flatten(0, 1))
    everything = {size: torch.arange(size**2).expand(frames, -1) for size in (8, 16)}
    check_decoder(golden, "_nomask", everything)
    check_decoder(golden, "_mask", keep(golden))
    assert not golden.unread()


def check_decoder(golden, case, kept):
    vision = golden.numbers.cast(Vision(model_config(context=kept is not None))).train()
    decoder, ours, theirs = vision.decoder, "world.vision.decoder", "wm.heads.decoder."
    golden.load(decoder, ours, theirs=theirs)
    feat, context = golden.input("feat").requires_grad_(), None
    if kept:
        context = {size: golden.input(f"shortcut_{size}").requires_grad_() for size in SIZES}
    mean = decoder(feat, context, kept)
    close(mean, golden[f"out/mean{case}"])
    target = vision.pixels(golden.image("target"))
    loss = squared_error(mean, target, axes=(-3, -2, -1))
    close(loss, golden[f"out/loss{case}"])
    loss.backward()
    close(feat.grad, golden[f"out/grad_feat{case}"])
    for size in (16, 8) if kept else ():
        close(context[size].grad, golden[f"out/grad_shortcut_{size}{case}"])
    close_gradients(golden, decoder, ours, theirs, f"grad{case}")
    close(gradient_norm(decoder.parameters()), golden[f"grad{case}_total_norm"])
    if case != "_nomask":
        close_statistics(golden, decoder, ours, theirs)


RSSMS = [("actionfree", 64 * ABOUT["depth"], 0), ("action", RSSM.features, ABOUT["actions"])]


@in_float64_and_float32
@pytest.mark.parametrize(("name", "embed", "action"), RSSMS)
@pytest.mark.parametrize("case", ["argmax", "gumbel"])
def test_rssm(name, embed, action, case, numbers):
    golden = Golden(f"rssm_{name}", numbers)
    model = numbers.cast(rssm.RSSM(RSSM, embed, action))
    golden.load(model, "world.rssm", theirs="wm.rssm.")
    start = state(golden, "start")
    post_noise, prior_noise, imagine_noise = (
        golden.input(f"gumbel_{x}") * (case == "gumbel") for x in ("post", "prior", "imagine")
    )
    seen, actions = golden.input("embed").requires_grad_(), golden.input("action")
    given, is_first = actions if action else None, golden.input("is_first")
    post, prior = model.observe(seen, given, is_first, start, post_noise)
    out = f"out/{case}"
    predicted = State(post.deter, one_hot_sample(prior, prior_noise), prior)
    close_state(post, golden, f"{out}/post")
    close_state(predicted, golden, f"{out}/prior")
    close(post.feat, golden[f"{out}/feat"])
    close(categorical_kl(post.logit, prior), golden[f"{out}/kl_value"])
    close(categorical_entropy(prior), golden[f"{out}/prior_entropy"])
    close(categorical_entropy(post.logit), golden[f"{out}/post_entropy"])
    kl = {free: balanced_kl(post.logit, prior, KLConfig(free=free)) for free in (0, 1, 100)}
    for free, value in kl.items():
        close(value, golden[f"{out}/kl_loss_free{free}"])
    scores = post.logit + post_noise, prior + prior_noise
    close(margin(*scores), golden[f"{out}/smallest_argmax_margin"])
    total = kl[0] + post.feat.square().mean()
    close(total, golden[f"{out}/total"])
    total.backward()
    close(seen.grad, golden[f"{out}/grad_embed"])
    close_gradients(golden, model, "world.rssm", "wm.rssm.", f"grad_{case}")
    close(gradient_norm(model.parameters()), golden[f"grad_{case}_total_norm"])

    imagined, states = start, []
    for t in range(actions.shape[1]):
        imagined = model.imagine_step(imagined, actions[:, t, :action], imagine_noise[:, t])
        states.append(imagined)
    imagined = State(*(torch.stack(parts, 1) for parts in zip(*states, strict=True)))
    close_state(imagined, golden, f"{out}/imagine")
    scores = imagined.logit + imagine_noise
    close(margin(scores), golden[f"{out}/imagine_smallest_argmax_margin"])
    assert not golden.unread(f"{out}/", f"grad_{case}")


@in_float64_and_float32
@pytest.mark.parametrize(("name", "embed", "action"), RSSMS)
def test_rssm_from_zero_and_by_the_step(name, embed, action, numbers):
    golden = Golden(f"rssm_{name}", numbers)
    model = numbers.cast(rssm.RSSM(RSSM, embed, action))
    golden.load(model, "world.rssm", theirs="wm.rssm.")
    seen, actions = golden.input("embed"), golden.input("action")[..., :action]
    given, is_first = actions if action else None, golden.input("is_first")
    post, _ = model.observe(seen, given, is_first, model.initial(len(seen), seen), MODE)
    close(post.deter, golden["out/argmax_zero_start/post_deter"])
    close(post.logit, golden["out/argmax_zero_start/post_logit"])

    start = state(golden, "start")
    first = is_first[:, :1]
    given = actions[:, :1] if action else None
    post, prior = model.observe(seen[:, :1], given, first, start, MODE)
    close_state(post.step(0), golden, "out/step_mode/post")
    prior = prior[:, 0]
    predicted = State(post.deter[:, 0], one_hot_sample(prior, MODE), prior)
    close_state(predicted, golden, "out/step_mode/prior")
    assert not golden.unread("out/argmax_zero_start", "out/step_mode")
