"""Images to embeddings: the 13-layer ResNet of the paper and the plain CNN of DreamerV2.

Both read images (N, 3, 64, 64) in -0.5..0.5 and give embeddings (N, E), flattened in channel,
height, width order. Reference: `nets/encoder/resnet.py`, `nets/encoder/plaincnn.py`.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from cwm.nn.blocks import ResidualLayer, xavier
from cwm.settings import VisionConfig

STAGES = 3  # 32, 16 and 8 pixels


class ResNet(nn.Module):
    """A stem and three residual stages, each followed by 2x2 average pooling."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        widths = [cfg.depth] + [cfg.depth * 2**i for i in range(STAGES)]
        self.stem = xavier(nn.Conv2d(3, cfg.depth, 3, stride=2, padding=1))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualLayer(a if i == 0 else b, b) for i in range(cfg.layers)))
            for a, b in pairwise(widths)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features after each stage, before its pooling: depths d, 2d, 4d at 32, 16, 8 pixels."""
        x, features = F.elu(self.stem(image)), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
            x = F.avg_pool2d(x, 2)
        return features


class ResNetEncoder(nn.Module):
    """The ResNet's last features, pooled to 4x4 and flattened to E = 64 depth."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.resnet = ResNet(cfg)
        self.width = cfg.depth * 2 ** (STAGES - 1) * 16

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 64, 64) -> (N, E)."""
        return F.avg_pool2d(self.resnet(image)[-1], 2).flatten(1)


class CNNEncoder(nn.Module):
    """Four 4x4 convolutions of stride 2, without norm or padding; E = 32 depth."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        widths = [3] + [cfg.depth * 2**i for i in range(4)]
        self.convs = nn.ModuleList(
            xavier(nn.Conv2d(a, b, 4, stride=2)) for a, b in pairwise(widths)
        )
        self.width = widths[-1] * 4

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 64, 64) -> (N, E)."""
        for conv in self.convs:
            image = F.elu(conv(image))
        return image.flatten(1)


def encoder(cfg: VisionConfig) -> ResNetEncoder | CNNEncoder:
    """Build the encoder that the config names."""
    return ResNetEncoder(cfg) if cfg.network == "resnet" else CNNEncoder(cfg)
