"""The video-based intrinsic bonus: the distance of new clips of experience to earlier ones.

Paper section 3.2 (from APV, section 4.2); reference `agents/expl.py`.
Shapes: B sequences, T steps, F features of the action-free model, Q projected width.
"""

import torch
from torch import Tensor, nn

from cwm.behavior.normalize import RunningMagnitude
from cwm.infra.errors import UserError
from cwm.settings import BonusConfig


class VideoBonus(nn.Module):
    """Mean distance of projected clips to their nearest neighbours in a queue of recent ones."""

    projection: Tensor  # (F, Q)
    queue: Tensor  # (cfg.queue, Q) the latest clips, newest first
    filled: Tensor  # () number of clips in the queue

    def __init__(self, cfg: BonusConfig, features: int) -> None:
        super().__init__()
        self.cfg = cfg
        # The reference's standard deviation is 1 / width, not 1 / sqrt(width).
        self.register_buffer("projection", torch.randn(features, cfg.width) / cfg.width)
        self.register_buffer("queue", torch.zeros(cfg.queue, cfg.width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        self.norm = RunningMagnitude(cfg.momentum)
        self.reward_scale = RunningMagnitude(cfg.momentum) if cfg.kind == "rel" else None

    @torch.no_grad()
    def forward(self, feat: Tensor, reward: Tensor) -> Tensor:
        """Reward plus bonus of the first T - window + 1 steps.

        feat (B, T, F), reward (B, T) -> (B, T - window + 1).
        """
        beta: float | Tensor = self.cfg.beta
        if self.reward_scale is not None:
            self.reward_scale.update(reward)
            beta = beta * self.reward_scale.magnitude.to(reward.dtype)
        bonus = self.norm(self.novelty(feat))
        return reward[:, : bonus.shape[1]] + beta * bonus

    @torch.no_grad()
    def novelty(self, feat: Tensor) -> Tensor:
        """Mean distance of each window of `feat` (B, T, F) to its nearest neighbours.

        The windows enter the queue first. Each is therefore its own neighbour at distance 0, as in
        the reference. Returns (B, T - window + 1).
        """
        cfg = self.cfg
        clips = feat.unfold(1, cfg.window, 1).mean(-1)  # (B, T', F)
        # float64, which autocast and TF32 do not change: distances of similar clips cancel.
        new = (clips.double() @ self.projection.double()).flatten(0, 1)
        count = len(new)
        if count > cfg.queue:
            raise UserError(
                f"bonus.queue is {cfg.queue}; it must be at least {count}, the clips in a batch"
            )
        self.queue.copy_(torch.cat([new.to(self.queue), self.queue[: cfg.queue - count]]))
        self.filled.add_(count).clamp_(max=cfg.queue)

        # |a - b|^2 = |a|^2 + |b|^2 - 2 a.b is 30 times faster than computing a - b. The distance
        # of a clip to itself would not be exactly zero, so it is set.
        queue = self.queue.double()
        norms = queue.square().sum(-1)
        square = norms[:count, None] + norms - 2 * (queue[:count] @ queue.mT)
        square.diagonal().zero_()
        age = torch.arange(cfg.queue, device=new.device)
        distance = square.clamp(min=0).sqrt()
        nearest = distance.masked_fill(age >= self.filled, torch.inf).topk(
            min(cfg.neighbours, cfg.queue), largest=False, sorted=False
        )[0]
        found = nearest.isfinite()
        mean = nearest.where(found, 0).sum(-1) / found.sum(-1)
        return mean.unflatten(0, clips.shape[:2]).to(feat.dtype)
