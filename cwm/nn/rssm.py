"""The recurrent state-space model, both the action-free and the action-conditional one.

Reference: `nets/dynamics/rssm.py`. Shapes: B batch, T time, D deterministic state, S latent
variables of K classes, E embedding, A action.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cwm.nn.blocks import GRUCell, xavier
from cwm.nn.dists import gumbel, one_hot_sample
from cwm.nn.time_batched_linear import TimeBatchedLinear
from cwm.settings import RSSMConfig


class State(NamedTuple):
    """Latent state; leading axes are (B,) in a step and (B, T) in a sequence."""

    deter: Tensor  # (..., D)
    stoch: Tensor  # (..., S, K)
    logit: Tensor  # (..., S, K)

    @property
    def feat(self) -> Tensor:
        """Input of every head (..., F): the flattened samples, then the recurrent state."""
        return torch.cat([self.stoch.flatten(-2), self.deter], -1)

    def step(self, t: int) -> "State":
        """The states (B, ...) of step t of a sequence."""
        return State(*(x[:, t] for x in self))

    def detach(self) -> "State":
        """The same state without gradients."""
        return State(*(x.detach() for x in self))


class RSSM(nn.Module):
    """Recurrent state-space model; with `action_dim` 0 it is action-free."""

    def __init__(self, cfg: RSSMConfig, embed_dim: int, action_dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.action_dim = action_dim
        self.latent = cfg.stoch * cfg.classes
        # The padded columns are parameters too, as in the reference: weight decay acts on them.
        action_columns = cfg.action_pad or action_dim
        self.image_in = xavier(nn.Linear(self.latent + action_columns, cfg.hidden))
        self.cell = GRUCell(cfg.hidden, cfg.deter)
        self.prior_hidden = xavier(nn.Linear(cfg.deter, cfg.hidden))
        self.prior_logit = xavier(nn.Linear(cfg.hidden, self.latent))
        self.post_hidden = xavier(nn.Linear(cfg.deter + embed_dim, cfg.hidden))
        self.post_logit = xavier(nn.Linear(cfg.hidden, self.latent))
        self.sample = one_hot_sample  # compile_regions replaces it

    def initial(self, batch: int, like: Tensor) -> State:
        """The all-zero state (B, ...) with the device and type of `like`."""
        cfg = self.cfg
        logit = like.new_zeros(batch, cfg.stoch, cfg.classes)
        return State(like.new_zeros(batch, cfg.deter), logit, logit)

    def prior(self, deter: Tensor) -> Tensor:
        """Prior logits (..., S, K) given the recurrent state (..., D)."""
        logit = self.prior_logit(F.elu(self.prior_hidden(deter)))
        return logit.unflatten(-1, (self.cfg.stoch, self.cfg.classes))

    def imagine_step(self, state: State, action: Tensor, noise: Tensor | None = None) -> State:
        """The prior's next state after action (B, A); Gumbel noise (B, S, K) is drawn if None."""
        inputs = torch.cat([state.stoch.flatten(-2), action], -1)
        weight = self.image_in.weight[:, : inputs.shape[-1]]
        deter = self.cell(F.elu(F.linear(inputs, weight, self.image_in.bias)), state.deter)
        logit = self.prior(deter)
        noise = gumbel(tuple(logit.shape), logit) if noise is None else noise
        return State(deter, self.sample(logit, noise), logit)

    def observe(
        self,
        embed: Tensor,
        action: Tensor | None,
        is_first: Tensor,
        start: State,
        noise: Tensor | None = None,
    ) -> tuple[State, Tensor]:
        """Posterior states (B, T, ...) and prior logits (B, T, S, K) of a sequence.

        embed: (B, T, E).
        action: (B, T, A), the action that led to each observation; None for an action-free model.
        is_first: (B, T); where it is 1, the previous state and the action are set to zero.
        start: the state before step 0.
        noise: Gumbel noise (B, T, S, K), drawn if None; zero takes the mode.
        """
        batch, length = embed.shape[:2]
        shape = (self.cfg.stoch, self.cfg.classes)
        keep = (1 - is_first.to(embed.dtype)).unsqueeze(-1)  # (B, T, 1)
        noise = gumbel((batch, length, *shape), embed) if noise is None else noise
        noise = noise.expand(batch, length, *shape)

        # Products that do not depend on the state are computed for all steps at once.
        latent_in, action_in = self.image_in.weight.tensor_split([self.latent], 1)
        deter_in, embed_in = self.post_hidden.weight.tensor_split([self.cfg.deter], 1)
        actions = self.image_in.bias.expand(batch, length, -1)
        if action is not None:
            action_in = action_in[:, : self.action_dim]
            actions = F.linear(action * keep, action_in, self.image_in.bias)
        embeds = F.linear(embed, embed_in, self.post_hidden.bias)

        gates, logits = self.cell.linear, self.post_logit
        input_layer = TimeBatchedLinear(latent_in, actions)
        gate_layer = TimeBatchedLinear(gates.weight, gates.bias.expand(batch, length, -1))
        post_layer = TimeBatchedLinear(deter_in, embeds)
        logit_layer = TimeBatchedLinear(logits.weight, logits.bias.expand(batch, length, -1))

        stoch, deter, states = start.stoch, start.deter, []
        for kept, drawn in zip(keep.unbind(1), noise.unbind(1), strict=True):
            x = F.elu(input_layer(stoch.flatten(-2) * kept))
            deter = deter * kept
            deter = self.cell.gate(gate_layer(torch.cat([x, deter], -1)), deter)
            logit = logit_layer(F.elu(post_layer(deter))).unflatten(-1, shape)
            stoch = self.sample(logit, drawn)
            states.append(State(deter, stoch, logit))
        post = State(*(torch.stack(parts, 1) for parts in zip(*states, strict=True)))
        return post, self.prior(post.deter)
