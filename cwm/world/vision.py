"""Encoder, context branch and decoder of a world model.

The plain world model has `context: null`.
Shapes: B clips, T frames, E embedding, F features.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cwm.nn.augment import AUGMENTATIONS
from cwm.nn.context import ContextEncoder, choose
from cwm.nn.decoder import decoder
from cwm.nn.encoder import encoder
from cwm.settings import Augment, ModelConfig


class RandomInputs(NamedTuple):
    """The random inputs of a world model's loss; each is drawn if None.

    Zero Gumbel noise takes the mode of every latent.
    """

    context_index: Tensor | None = None  # (B,) the context frame of each clip
    keep: dict[int, Tensor] | None = None  # size -> (B*T, S) context tokens that each frame sees
    gumbel_free: Tensor | None = None  # (B, T, S, K) of the action-free posterior
    gumbel: Tensor | None = None  # (B, T, S, K) of the action-conditional posterior


class Vision(nn.Module):
    """Encoder, decoder and, for a contextual model, the context encoder between them."""

    def __init__(self, cfg: ModelConfig, augment: Augment = "none") -> None:
        super().__init__()
        self.cfg = cfg
        self.augment = augment
        self.encoder = encoder(cfg.vision)
        self.context = ContextEncoder(cfg.vision) if cfg.context else None
        self.decoder = decoder(cfg.vision, cfg.context, cfg.rssm.features)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # not in its types

    def pixels(self, image: Tensor) -> Tensor:
        """uint8 (..., 64, 64, 3) -> (..., 3, 64, 64) in -0.5..0.5."""
        dtype = next(self.parameters()).dtype
        return (image.to(dtype) / 255 - 0.5).movedim(-1, -3)

    def embed(self, pixels: Tensor) -> Tensor:
        """(B, T, 3, 64, 64) -> embeddings (B, T, E)."""
        return self.encoder(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])

    def encode_context(
        self, pixels: Tensor, index: Tensor | None = None
    ) -> dict[int, Tensor] | None:
        """Features of one context frame for each clip (B, T, 3, 64, 64); None for a plain model.

        `index` (B,) selects the frames; if None, `model.context.choice` does. Frames are augmented
        in training mode only.
        """
        if self.context is None or self.cfg.context is None:
            return None
        clips, length = pixels.shape[:2]
        if index is None:
            index = choose(self.cfg.context.choice, clips, length, pixels.device)
        frame = pixels[torch.arange(clips, device=pixels.device), index]
        if self.training and self.augment != "none":
            frame = AUGMENTATIONS[self.augment](frame)
        return self.context(frame)

    def reconstruct(self, feat: Tensor, pixels: Tensor, random: RandomInputs) -> Tensor:
        """Decode features (B, T, F), with a context frame of `pixels`, to (B, T, 3, 64, 64)."""
        return self.decoder(feat, self.encode_context(pixels, random.context_index), random.keep)
