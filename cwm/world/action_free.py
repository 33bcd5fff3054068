"""The action-free world model of pre-training: latent dynamics of videos.

Paper sections 3.1 and 4.2; reference `agents/apv_pretrain.py`.
Shapes: B clips, T frames, F features, S latent variables of K classes.
"""

from typing import NamedTuple

from torch import Tensor, nn

from cwm.nn.batch import ClipBatch
from cwm.nn.dists import categorical_entropy, categorical_kl
from cwm.nn.rssm import RSSM, State
from cwm.settings import ActionFreeConfig, ModelConfig
from cwm.world.losses import balanced_kl, squared_error, total
from cwm.world.vision import RandomInputs, Vision


class PretrainOutput(NamedTuple):
    """The loss of a batch of clips and what it was computed from."""

    loss: Tensor  # ()
    terms: dict[str, Tensor]  # unweighted loss terms and other metrics, all ()
    embed: Tensor  # (B, T, E)
    post: State  # (B, T, ...)
    prior: Tensor  # (B, T, S, K) logits
    image: Tensor  # (B, T, 3, 64, 64) reconstruction


class ActionFreeModel(nn.Module):
    """Encoder, action-free RSSM and a decoder that may attend to a context frame."""

    def __init__(self, model: ModelConfig, cfg: ActionFreeConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.vision = Vision(model)
        self.rssm = RSSM(model.rssm, self.vision.encoder.width, action_dim=0)

    def loss(
        self, batch: ClipBatch, start: State | None = None, random: RandomInputs = RandomInputs()
    ) -> PretrainOutput:
        """Negative evidence lower bound of clips, from state `start` (default: zeros)."""
        pixels = self.vision.pixels(batch.image)
        embed = self.vision.embed(pixels)
        start = start or self.rssm.initial(len(embed), embed)
        post, prior = self.rssm.observe(embed, None, batch.is_first, start, random.gumbel_free)
        image = self.vision.reconstruct(post.feat, pixels, random)
        losses = {
            "image": squared_error(image, pixels, axes=(-3, -2, -1)),
            "kl": balanced_kl(post.logit, prior, self.cfg.kl),
        }
        loss = total(losses, {"image": 1.0, "kl": self.cfg.kl_weight})
        return PretrainOutput(
            loss, losses | latent_metrics(post.logit, prior), embed, post, prior, image
        )


def latent_metrics(post: Tensor, prior: Tensor) -> dict[str, Tensor]:
    """Mean KL and entropies of posterior and prior, in nats, from logits (B, T, S, K)."""
    post, prior = post.detach(), prior.detach()
    return {
        "kl_value": categorical_kl(post, prior).mean(),
        "prior_entropy": categorical_entropy(prior).mean(),
        "post_entropy": categorical_entropy(post).mean(),
    }
