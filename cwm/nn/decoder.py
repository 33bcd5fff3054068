"""Decoders from latent features to the mean of an image, with or without a context frame.

Reference: `nets/decoder/{resnet,ctx_resnet,plaincnn}.py`. Shapes: B clips of T frames, F features.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cwm.nn.attention import ContextAttention, random_tokens
from cwm.nn.blocks import ResidualLayer, xavier
from cwm.nn.encoder import STAGES
from cwm.settings import ContextConfig, VisionConfig

SIZES = (8, 16, 32)  # resolution of each stage, in pixels
CONTEXT_SIZES = (
    8,
    16,
)  # stages that read the context; attention at 32 costs nine times that at 16


class ResNetDecoder(nn.Module):
    """Three stages of upsampling and residual layers; without `context` it is the plain decoder."""

    def __init__(self, cfg: VisionConfig, context: ContextConfig | None, features: int) -> None:
        super().__init__()
        widths = [cfg.depth * 2**i // 2 for i in range(STAGES, -1, -1)]  # 4d, 2d, d, d/2
        self.base = widths[0]
        self.linear = xavier(nn.Linear(features, self.base * 16))
        self.context = context
        concat = context is not None and context.fusion == "concat"
        self.stages = nn.ModuleList()
        for size, (a, b) in zip(SIZES, pairwise(widths), strict=True):
            extra = (
                a if concat and size in CONTEXT_SIZES else 0
            )  # the context has as many channels as x
            outputs = [a] * (cfg.layers - 1) + [b]
            self.stages.append(
                nn.ModuleList(
                    ResidualLayer(a, o, extra if i == 0 else 0) for i, o in enumerate(outputs)
                )
            )
        self.attention = nn.ModuleDict()
        if context and not concat:
            sizes = zip(CONTEXT_SIZES, widths, strict=False)
            self.attention.update(
                {str(size): ContextAttention(w, size, context) for size, w in sizes}
            )
        self.out = xavier(
            nn.ConvTranspose2d(widths[-1], 3, 3, stride=2, padding=1, output_padding=1)
        )

    def forward(
        self,
        feat: Tensor,
        context: dict[int, Tensor] | None = None,
        keep: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Mean image (B, T, 3, 64, 64) of features (B, T, F).

        `context` maps a size to features (B, C, size, size), and `keep` maps it to the context
        tokens (B*T, S) that each frame sees. Without `keep`, each frame sees a random subset in
        training and all tokens in evaluation. Concatenation ignores `keep` and hides nothing.
        """
        x = self.linear(feat.flatten(0, 1)).unflatten(1, (self.base, 4, 4))
        for stage in self.stages:
            with torch.autocast(
                x.device.type, enabled=False
            ):  # on a GPU autocast would return float32
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            first, *others = stage.children()
            x = first(x, self.fuse_context(x, context, keep))
            for layer in others:
                x = layer(x)
        return self.out(x).unflatten(0, feat.shape[:2])

    def fuse_context(
        self, x: Tensor, context: dict[int, Tensor] | None, keep: dict[int, Tensor] | None
    ) -> Tensor | None:
        """The input z of the stage's first layer, or None where the stage reads no context."""
        size = x.shape[-1]
        if self.context is None or size not in CONTEXT_SIZES:
            return None
        if context is None:
            raise ValueError("a contextual decoder needs the features of the context frame")
        if self.context.fusion == "concat":
            features = context[size]
            return torch.cat([x, features.repeat_interleave(len(x) // len(features), 0)], 1)
        tokens = keep[size] if keep else None
        if tokens is None and self.training and self.context.masked:
            tokens = random_tokens(len(x), size * size, self.context.masked, x)
        if tokens is not None and tokens.shape[-1] == 0:  # all tokens are masked
            return None
        return self.attention[str(size)](x, context[size], tokens)


class CNNDecoder(nn.Module):
    """Transposed convolutions 5, 5, 6, 6 of stride 2, as in DreamerV2."""

    def __init__(self, cfg: VisionConfig, features: int) -> None:
        super().__init__()
        widths = [cfg.depth * n for n in (32, 4, 2, 1)] + [3]
        self.linear = xavier(nn.Linear(features, widths[0]))
        self.convs = nn.ModuleList(
            xavier(nn.ConvTranspose2d(a, b, kernel, stride=2))
            for (a, b), kernel in zip(pairwise(widths), (5, 5, 6, 6), strict=True)
        )

    def forward(self, feat: Tensor, context: None = None, keep: None = None) -> Tensor:
        """Mean image (B, T, 3, 64, 64) of features (B, T, F)."""
        x = self.linear(feat.flatten(0, 1))[:, :, None, None]
        for conv in self.convs[:-1]:
            x = F.elu(conv(x))
        return self.convs[-1](x).unflatten(0, feat.shape[:2])


def decoder(
    cfg: VisionConfig, context: ContextConfig | None, features: int
) -> ResNetDecoder | CNNDecoder:
    """Build the decoder that the config names."""
    if cfg.network == "resnet":
        return ResNetDecoder(cfg, context, features)
    return CNNDecoder(cfg, features)
