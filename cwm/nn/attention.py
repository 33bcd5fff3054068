"""Cross-attention of a decoded frame over the context frame (paper section 4.2).

Shapes: B clips, T frames of each, C H W a feature map, N = H W context tokens, S of them kept.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cwm.infra import ranks
from cwm.infra.errors import UserError
from cwm.nn.checkpointing import checkpointed
from cwm.nn.whole_batch import draw
from cwm.settings import ContextConfig

AMPLITUDE = 4  # of sinusoidal positions: most of the weight begins at the query's own place


def random_tokens(frames: int, tokens: int, masked: float, like: Tensor) -> Tensor:
    """S = int(tokens * (1 - masked)) random token indices for each frame, (frames, S)."""
    kept = int(tokens * (1 - masked))
    order = draw(lambda n: torch.rand(n, tokens, device=like.device), frames)
    return order.topk(kept, -1, sorted=False).indices


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., tokens, C) -> (..., heads, tokens, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def sinusoids(size: int, channels: int) -> Tensor:
    """Positions (size * size, C): sine and cosine of row and column at C / 4 frequencies."""
    periods = 2 * size / 2 ** torch.linspace(0, 3, channels // 4)
    angle = 2 * torch.pi * torch.arange(size)[:, None] / periods  # (size, C / 4)
    line = torch.cat([angle.sin(), angle.cos()], 1)
    rows, columns = line.repeat_interleave(size, 0), line.repeat(size, 1)
    return AMPLITUDE * torch.cat([rows, columns], 1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, rate: float) -> Tensor:
    """softmax(q k^T / sqrt(width)) v with dropout of the weights; all (..., tokens, width)."""
    if rate == 0 or draws_dropout(queries):
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=rate)
    weights = (queries * queries.shape[-1] ** -0.5 @ keys.mT).softmax(-1)
    kept = keep_some(weights, rate)
    return checkpointed(lambda w, k, v: dropped(w, k, rate) @ v, weights, kept, values)


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero each entry with probability `rate` and divide the others by 1 - rate."""
    if rate == 0 or draws_dropout(x):
        return F.dropout(x, rate)
    return dropped(x, keep_some(x, rate), rate)


def draws_dropout(x: Tensor) -> bool:
    """Whether torch's own dropout is used: fused on a GPU, but not for a part of a batch."""
    return x.is_cuda and ranks.current.size == 1


def keep_some(x: Tensor, rate: float) -> Tensor:
    """Boolean mask of the entries of x that dropout keeps.

    One random 64-bit number decides four entries of 16 bits, so the rate is rounded to 2^-15.
    """

    def mask(rows: int) -> Tensor:
        size = rows * x[0].numel()
        bits = torch.empty(-(-size // 4), dtype=torch.long, device=x.device).random_()
        kept = bits.view(torch.int16)[:size].bitwise_and_(2**15 - 1) >= round(rate * 2**15)
        return kept.view(rows, *x.shape[1:])

    return draw(mask, len(x))


def dropped(x: Tensor, kept: Tensor, rate: float) -> Tensor:
    """x / (1 - rate) where `kept`, else zero."""
    return x * kept.to(x.dtype).mul_(1 / (1 - rate))


class ContextAttention(nn.Module):
    """z = relu(x + norm(attention(x, context))); reference `nets/modules.py`.

    Keys and values are projected once per clip and then gathered for each frame. The result equals
    projecting the kept tokens of every frame.
    """

    def __init__(self, channels: int, size: int, cfg: ContextConfig) -> None:
        super().__init__()
        multiple = math.lcm(cfg.heads, 4 if cfg.positions == "sinusoidal" else 1)
        if channels % multiple:
            raise UserError(
                f"model.vision.depth gives the cross-attention {channels} channels; they must be"
                f" a multiple of {multiple}"
            )
        self.heads = cfg.heads
        self.dropout = cfg.dropout  # of attention weights, and again of the output
        self.query_position = nn.Parameter(torch.zeros(size * size, channels))
        self.context_position = nn.Parameter(torch.zeros(size * size, channels))
        self.project_in = nn.Linear(channels, 3 * channels)  # rows: query, key, value
        self.project_out = nn.Linear(channels, channels)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.xavier_uniform_(self.project_in.weight)
        nn.init.zeros_(self.project_in.bias)
        nn.init.zeros_(self.project_out.bias)
        self.place_values = cfg.positions == "learned"
        if cfg.positions == "sinusoidal":
            nn.init.zeros_(self.norm.weight)
            query, key, _ = self.project_in.weight.detach().chunk(3)
            key.copy_(nn.init.orthogonal_(query))
            for table in (self.query_position, self.context_position):
                table.detach().copy_(sinusoids(size, channels))

    def forward(self, x: Tensor, context: Tensor, keep: Tensor | None) -> Tensor:
        """x (B*T, C, H, W), context (B, C, H, W), keep (B*T, S) or None: all tokens -> like x."""
        frames, _, height, width = x.shape
        queries, tokens = self.project(x, context)
        if keep is None:  # the frames of a clip see the same tokens: (B, T N, C)
            queries = queries.unflatten(0, (len(context), -1)).flatten(1, 2)
        else:
            clip = torch.arange(frames, device=x.device) // (frames // len(context))
            tokens = tokens[clip[:, None], keep]  # (B*T, S, 2C)
        keys, values = tokens.chunk(2, -1)
        rate = self.dropout if self.training else 0.0
        queries, keys, values = (split_heads(each, self.heads) for each in (queries, keys, values))
        mixed = attend(queries, keys, values, rate).transpose(1, 2)
        mixed = mixed.reshape(frames, height * width, -1)
        mixed = dropout(self.project_out(mixed), rate).mT.unflatten(2, (height, width))
        return F.relu(self.norm(mixed).add_(x), inplace=True)

    def project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B*T, H W, C) of x; concatenated keys and values of the context (B, N, 2C)."""
        channels, weight, bias = x.shape[1], self.project_in.weight, self.project_in.bias
        queries = x.flatten(2).mT + self.query_position.to(x.dtype)
        queries = F.linear(queries, weight[:channels], bias[:channels])
        tokens = context.flatten(2).mT
        placed = tokens + self.context_position.to(context.dtype)
        if self.place_values:
            return queries, F.linear(placed, weight[channels:], bias[channels:])
        last = 2 * channels
        keys = F.linear(placed, weight[channels:last], bias[channels:last])
        return queries, torch.cat([keys, F.linear(tokens, weight[last:], bias[last:])], -1)

    def attention_weights(self, x: Tensor, context: Tensor) -> Tensor:
        """Attention weights averaged over the heads, without masking or dropout: (B*T, H W, N)."""
        queries, tokens = self.project(x, context)
        keys = tokens.chunk(2, -1)[0].repeat_interleave(len(x) // len(context), 0)
        queries, keys = (split_heads(each, self.heads) for each in (queries, keys))
        return (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1).mean(1)
