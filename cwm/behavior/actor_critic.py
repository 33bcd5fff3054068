"""Actor and critic, learned in imagination by back-propagation through the dynamics.

DreamerV2 section 2.3; reference `agents/actor_critic.py`.
Shapes: H horizon, N imagined trajectories, F features, A action; time first.

    index           0     1     2    ...   H-1    H
    state           s0 -> s1 -> s2 -> ... -> s(H-1) -> sH
    action           \\_a1_/ \\_a2_/              \\_aH_/
    reward          r0    r1    r2         r(H-1) rH     r(i): arriving in s(i)
    return          G0    G1    G2         G(H-1)        bootstrapped with v(sH)
    actor learns    a(s0): G1, ..., a(s(H-2)): G(H-1)
    critic learns   v(s0): G0, ..., v(s(H-1)): G(H-1)
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cwm.behavior.normalize import RunningMagnitude
from cwm.behavior.returns import discount_weights, lambda_return
from cwm.nn.blocks import MLP
from cwm.nn.dists import (
    truncated_normal_entropy,
    truncated_normal_sample,
)
from cwm.settings import BehaviorConfig


class TruncatedNormal(NamedTuple):
    """A normal distribution truncated to [-1, 1]."""

    loc: Tensor  # (..., A)
    scale: Tensor  # (..., A)

    def sample(self, uniform: Tensor | None = None) -> Tensor:
        """Reparameterised sample from `uniform` (..., A) in (0, 1), drawn if None."""
        eps = torch.finfo(self.loc.dtype).eps
        uniform = torch.rand_like(self.loc) if uniform is None else uniform
        return truncated_normal_sample(self.loc, self.scale, uniform.clamp(eps, 1 - eps))

    def mode(self) -> Tensor:
        """The action of highest density, (..., A)."""
        return self.loc.clamp(-1, 1)

    def entropy(self) -> Tensor:
        """Entropy, summed over the action, (...)."""
        return truncated_normal_entropy(self.loc, self.scale)


class BehaviorLosses(NamedTuple):
    """Losses and metrics of one update."""

    actor: Tensor  # ()
    critic: Tensor  # ()
    terms: dict[str, Tensor]  # all ()
    target: Tensor  # (H, N) regression target of the critic


class ActorCritic(nn.Module):
    """Actor, critic and slow target critic."""

    def __init__(self, cfg: BehaviorConfig, features: int, action_dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.actor = MLP(cfg.actor, features, [action_dim, action_dim])
        self.critic = MLP(cfg.critic, features, [1])
        self.target = MLP(cfg.critic, features, [1]).requires_grad_(False)
        self.reward_norm = RunningMagnitude(cfg.reward_momentum)
        self.copy_target()

    @torch.no_grad()
    def copy_target(self) -> None:
        """Copy the critic to the slow target."""
        self.target.load_state_dict(self.critic.state_dict())

    def policy(self, feat: Tensor) -> TruncatedNormal:
        """The actor's distribution at features (..., F)."""
        mean, std = self.actor(feat)
        return TruncatedNormal(torch.tanh(mean), 2 * torch.sigmoid(std / 2) + 0.1)

    def losses(self, feat: Tensor, reward: Tensor) -> BehaviorLosses:
        """Losses of imagined features (H+1, N, F), which carry gradients, and rewards (H+1, N)."""
        cfg, detached = self.cfg, feat.detach()
        value = self.target(feat)[0].squeeze(-1)
        scaled = self.reward_norm(reward)
        returns = lambda_return(scaled[:-1], value[:-1], value[-1], cfg.discount, cfg.lambda_)
        weight = discount_weights(len(returns), cfg.discount, returns)

        entropy = self.policy(detached[:-2]).entropy()  # (H-1, N)
        objective = returns[1:] + cfg.entropy * entropy
        actor = -(weight[:-1] * objective).mean()

        # As in the reference, the critic's targets contain the entropy too (an in-place addition).
        target = torch.cat([returns[:1], objective]).detach()
        predicted = self.critic(detached[:-1])[0].squeeze(-1)
        critic = (weight * 0.5 * (predicted - target).square()).mean()
        terms = {
            "actor_entropy": entropy.detach().mean(),
            "imagined_reward": reward.detach().mean(),
            "imagined_value": predicted.detach().mean(),
            "imagined_return": returns.detach().mean(),
        }
        return BehaviorLosses(actor, critic, terms, target)
