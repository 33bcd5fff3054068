"""Building blocks: initialisation, residual layer, layer-normalised GRU cell, MLP.

Shapes: N images, C H W an image; B batch, D recurrent state.
"""

from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cwm.nn.checkpointing import checkpointed
from cwm.nn.dists import full
from cwm.settings import MLPConfig

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def xavier(layer: Layer) -> Layer:
    """Glorot-uniform weight and zero bias: the reference's default for layers outside residuals."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualLayer(nn.Module):
    """relu(skip(x) + block(z)): two 3x3 convolutions with batch norm; reference `ResidualLayer`.

    z defaults to x. A contextual decoder passes x after attention over the context, or x
    concatenated with `extra` channels of the context.
    """

    def __init__(self, inputs: int, outputs: int, extra: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs + extra, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.widen = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else None
        self.widen_norm = nn.BatchNorm2d(outputs) if inputs != outputs else None

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x (N, inputs, H, W), z (N, inputs + extra, H, W) -> (N, outputs, H, W)."""
        y = self.conv1(x if z is None else z)
        y = self.norm2(checkpointed(self._second, y, norm=self.norm1))
        skip = self.widen_norm(self.widen(x)) if self.widen and self.widen_norm else x
        return F.relu(y.add_(skip), inplace=True)  # backward does not use the norm's output

    def _second(self, y: Tensor) -> Tensor:
        return self.conv2(F.relu(self.norm1(y), inplace=True))


class GRUCell(nn.Module):
    """GRU with one layer norm over all gates; the update gate has bias -1 (DreamerV2)."""

    def __init__(self, inputs: int, deter: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs + deter, 3 * deter)  # PyTorch's default initialisation
        self.norm = nn.LayerNorm(3 * deter, eps=1e-3)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """x (B, inputs), h (B, D) -> the next h (B, D)."""
        return self.gate(self.linear(torch.cat([x, h], -1)), h)

    def gate(self, gates: Tensor, h: Tensor) -> Tensor:
        """The linear layer's outputs (B, 3 D), h (B, D) -> the next h (B, D)."""
        reset, candidate, update = self.norm(gates).chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return update * candidate + (1 - update) * h


class MLP(nn.Module):
    """Hidden layers with ELU, then one linear output per entry of `outputs`."""

    def __init__(self, cfg: MLPConfig, inputs: int, outputs: list[int]) -> None:
        super().__init__()
        widths = [inputs] + [cfg.units] * cfg.layers
        self.hidden = nn.ModuleList(xavier(nn.Linear(a, b)) for a, b in pairwise(widths))
        self.out = nn.ModuleList(xavier(nn.Linear(widths[-1], n)) for n in outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., inputs) -> one (..., n) for each n in `outputs`, at least in float32."""
        for layer in self.hidden:
            x = F.elu(layer(x))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 rounds 1000 to steps of 4
            return tuple(out(full(x)) for out in self.out)
