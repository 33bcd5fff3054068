"""Open-loop video prediction: watch the first frames of a clip, then predict the rest.

Shapes: B clips, T frames of which the first `observed` are seen.
"""

import torch
from torch import Tensor

from cwm.data.batch import Batch
from cwm.nn.dists import gumbel
from cwm.world.action_free import ActionFreeModel


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
    batch, length = clips.image.shape[:2]
    pixels = world.vision.pixels(clips.image)
    is_first = clips.is_first[:, :observed]
    embed = world.vision.embed(pixels[:, :observed])
    shape = (batch, length, world.rssm.cfg.stoch, world.rssm.cfg.classes)
    noise = (gumbel(shape, embed) if noise is None else noise).expand(shape)
    start = world.rssm.initial(batch, embed)
    post, _ = world.rssm.observe(embed, None, is_first, start, noise[:, :observed])
    state, feats = post.step(-1), [post.feat]
    none = embed.new_zeros(batch, 0)
    for t in range(observed, length):
        state = world.rssm.imagine_step(state, none, noise[:, t])
        feats.append(state.feat[:, None])
    if context_index is None:
        context_index = torch.full((batch,), observed - 1, device=pixels.device)
    context = world.vision.look(pixels, context_index)
    mean = world.vision.decoder(torch.cat(feats, 1), context, keep)
    return mean + 0.5
