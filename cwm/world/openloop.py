"""Open-loop video prediction: observe the first frames of a clip and predict the others.

Shapes: B clips, T frames of which the model observes the first `observed`, F features.
"""

import torch
from torch import Tensor

from cwm.nn.attention import ContextAttention
from cwm.nn.batch import ClipBatch, clip_batch
from cwm.nn.decoder import ResNetDecoder
from cwm.nn.dists import gumbel
from cwm.world.action_free import ActionFreeModel
from cwm.world.stacked import StackedModel
from cwm.world.vision import RandomInputs

MOVING = 0.1  # a pixel moves if it differs by more from the last observed frame, in 0..1


@torch.no_grad()
def predict(
    world: ActionFreeModel,
    clips: ClipBatch,
    observed: int,
    noise: Tensor | None = None,
    keep: dict[int, Tensor] | None = None,
    context_index: Tensor | None = None,
) -> Tensor:
    """Reconstruct the first `observed` frames of clips (B, T, ...), then roll the prior out.

    Put the model in evaluation mode first.

    Args:
        world: the model.
        clips: (B, T, 64, 64, 3).
        observed: number of observed frames.
        noise: Gumbel noise (B, T, S, K) of the latents, drawn if None; zero takes the modes.
        keep: context tokens that each frame sees, by size; None: all.
        context_index: context frame (B,) of each clip; None: the last observed frame. The official
            code's report may use a future frame.

    Returns:
        Images (B, T, 3, 64, 64), black 0 and white 1, not clipped.
    """
    feat = rollout_features(world, clips, observed, noise)
    return (
        world.vision.decoder(feat, encode_context(world, clips, observed, context_index), keep)
        + 0.5
    )


@torch.no_grad()
def rollout_features(
    world: ActionFreeModel, clips: ClipBatch, observed: int, noise: Tensor | None = None
) -> Tensor:
    """Features (B, T, F): posterior for observed frames, then prior for predicted ones."""
    batch, length = clips.image.shape[:2]
    embed = world.vision.embed(world.vision.pixels(clips.image[:, :observed]))
    shape = (batch, length, world.rssm.cfg.stoch, world.rssm.cfg.classes)
    noise = (gumbel(shape, embed) if noise is None else noise).expand(shape)
    start = world.rssm.initial(batch, embed)
    is_first = clips.is_first[:, :observed]
    post, _ = world.rssm.observe(embed, None, is_first, start, noise[:, :observed])
    state, feats = post.step(-1), [post.feat]
    no_action = embed.new_zeros(batch, 0)
    for t in range(observed, length):
        state = world.rssm.imagine_step(state, no_action, noise[:, t])
        feats.append(state.feat[:, None])
    return torch.cat(feats, 1)


@torch.no_grad()
def predict_with_actions(
    world: StackedModel, image: Tensor, past: Tensor, future: Tensor
) -> Tensor:
    """Predict the frames that follow `image` (B, T, 64, 64, 3) under actions `future` (B, H, A).

    past: (B, T, A), the actions that led to the observed frames. Latents take their modes, and the
    context frame is the last observed one. Returns images (B, H, 3, 64, 64), black 0 and white 1,
    not clipped.
    """
    clips, observed = clip_batch(image), image.shape[1]
    pixels = world.vision.pixels(image)
    mode = pixels.new_zeros(())
    random = RandomInputs(gumbel_free=mode, gumbel=mode)
    post = world.observe(world.vision.embed(pixels), past, clips.is_first, None, random)[2]
    state, feats = post.step(-1), []
    for action in future.unbind(1):
        state = world.rssm.imagine_step(state, action, mode)
        feats.append(state.feat)
    index = torch.full((len(image),), observed - 1, device=image.device)
    context = world.vision.encode_context(pixels, index)
    return world.vision.decoder(torch.stack(feats, 1), context) + 0.5


@torch.no_grad()
def encode_context(
    world: ActionFreeModel, clips: ClipBatch, observed: int, index: Tensor | None = None
) -> dict[int, Tensor] | None:
    """Context features of the last observed frame, or of frames `index` (B,); None: plain model."""
    if index is None:
        index = torch.full((len(clips.image),), observed - 1, device=clips.image.device)
    return world.vision.encode_context(world.vision.pixels(clips.image), index)


@torch.no_grad()
def attention(
    decoder: ResNetDecoder, feat: Tensor, context: dict[int, Tensor], size: int = 16
) -> Tensor:
    """Attention weights of the decoder, (B, T, N queries, N context tokens), N = size * size.

    They are averaged over the heads and sum to one over the tokens.
    """
    weights = []

    def record(layer: ContextAttention, inputs: tuple, output: Tensor) -> None:
        weights.append(layer.attention_weights(*inputs[:2]))

    hook = decoder.attention[str(size)].register_forward_hook(record)
    decoder(feat, context)
    hook.remove()
    return weights[0].unflatten(0, feat.shape[:2])


def squared_errors(image: Tensor, clips: ClipBatch, observed: int) -> dict[str, Tensor]:
    """Mean squared errors (B,) of the predicted frames of `image` (B, T, 3, 64, 64).

    `prediction` is the model's error, and `repeat` that of repeating the last observed frame.
    Entries that end in `_moving` count only pixels that differ from the last observed frame; they
    are NaN for a clip without such pixels.
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
