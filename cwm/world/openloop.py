"""Open-loop video prediction: watch the first frames of a clip, then predict the rest.

Shapes: B clips, T frames of which the first `observed` are seen.
"""

import torch
from torch import Tensor

from cwm.nn.batch import Batch
from cwm.nn.dists import gumbel
from cwm.world.action_free import ActionFreeModel

MOVING = 0.1  # of 0..1: change since the last observed frame that makes a pixel a moving one


@torch.no_grad()
def predict(
    world: ActionFreeModel,
    clips: Batch,
    observed: int,
    noise: Tensor | None = None,
    keep: dict[int, Tensor] | None = None,
    context_index: Tensor | None = None,
) -> Tensor:
    """Reconstruct the first `observed` frames of clips (B, T, ...), then roll the prior out.

    The context is the last observed frame, unless `context_index` (B,) says otherwise; the official
    code's report may take a future one.
    `noise` is Gumbel noise (B, T, S, K) of the latents (zero: the modes), drawn if None; `keep`
    are the context tokens seen by each frame, all if None. The model should be in evaluation mode.
    Returns images (B, T, 3, 64, 64), black 0 and white 1, not clipped.
    """
    feat = rollout_features(world, clips, observed, noise)
    return (
        world.vision.decoder(feat, encode_context(world, clips, observed, context_index), keep)
        + 0.5
    )


@torch.no_grad()
def rollout_features(
    world: ActionFreeModel, clips: Batch, observed: int, noise: Tensor | None = None
) -> Tensor:
    """Features (B, T, F): posterior ones of the observed frames, then predicted ones."""
    batch, length = clips.image.shape[:2]
    embed = world.vision.embed(world.vision.pixels(clips.image[:, :observed]))
    shape = (batch, length, world.rssm.cfg.stoch, world.rssm.cfg.classes)
    noise = (gumbel(shape, embed) if noise is None else noise).expand(shape)
    start = world.rssm.initial(batch, embed)
    is_first = clips.is_first[:, :observed]
    post, _ = world.rssm.observe(embed, None, is_first, start, noise[:, :observed])
    state, feats = post.step(-1), [post.feat]
    none = embed.new_zeros(batch, 0)
    for t in range(observed, length):
        state = world.rssm.imagine_step(state, none, noise[:, t])
        feats.append(state.feat[:, None])
    return torch.cat(feats, 1)


@torch.no_grad()
def encode_context(
    world: ActionFreeModel, clips: Batch, observed: int, index: Tensor | None = None
) -> dict[int, Tensor] | None:
    """Features of the last observed frame, or of those of `index` (B,); None for a plain model."""
    if index is None:
        index = torch.full((len(clips.image),), observed - 1, device=clips.image.device)
    return world.vision.encode_context(world.vision.pixels(clips.image), index)


@torch.no_grad()
def attention(
    world: ActionFreeModel, feat: Tensor, context: dict[int, Tensor], size: int = 16
) -> Tensor:
    """Where the decoder looks in the context: (B, T, N, N), queries by tokens, N = size * size.

    Weights are means over the heads and sum to one over the tokens.
    """
    layer, seen = world.vision.decoder.attention[str(size)], []
    hook = layer.register_forward_hook(
        lambda _, inputs, out: seen.append(layer.attention_weights(*inputs[:2]))
    )
    world.vision.decoder(feat, context)
    hook.remove()
    return seen[0].unflatten(0, feat.shape[:2])


def squared_errors(image: Tensor, clips: Batch, observed: int) -> dict[str, Tensor]:
    """Mean squared errors (B,) of predicted frames of `image`, and of the last observed repeated.

    Over all pixels and, as `moving`, over those that differ from the last observed frame; these
    are NaN for a clip in which nothing moves.
    """
    truth = clips.image.movedim(-1, -3) / 255
    last, truth = truth[:, observed - 1 : observed], truth[:, observed:]
    moving = ((truth - last).abs() > MOVING).any(2)
    errors = {}
    for name, guess in (("prediction", image[:, observed:].clamp(0, 1)), ("repeat", last)):
        error = (guess - truth).square().mean(2)
        errors[name] = error.mean((1, 2, 3))
        errors[f"{name}_moving"] = (error * moving).sum((1, 2, 3)) / moving.sum((1, 2, 3))
    return errors
