"""The action-conditional world model, stacked on the action-free one (fine-tuning).

Paper sections 3.2 and 4.3; reference `agents/apv_finetune.py`, and `agents/dreamerv2.py` for the
model that is not stacked. Shapes: B sequences, T steps, F features, A action, H horizon, N starts.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cwm.nn.batch import Batch
from cwm.nn.blocks import MLP
from cwm.nn.rssm import RSSM, State
from cwm.settings import ModelConfig, StackedConfig
from cwm.world.action_free import latent_metrics
from cwm.world.losses import balanced_kl, squared_error, total
from cwm.world.vision import RandomInputs, Vision

# (action-free features (B, T, F), reward (B, T)) -> behavioural reward (B, <= T)
RewardTarget = Callable[[Tensor, Tensor], Tensor]


class WorldModelOutput(NamedTuple):
    """The loss of a batch of experience and what it was computed from."""

    loss: Tensor  # ()
    terms: dict[str, Tensor]  # unweighted loss terms and other metrics, all ()
    embed: Tensor  # (B, T, E)
    free: State | None  # (B, T, ...) lower posterior; None when not stacked
    post: State  # (B, T, ...) upper posterior
    prior: Tensor  # (B, T, S, K) logits of the upper prior
    image: Tensor  # (B, T, 3, 64, 64) reconstruction
    target: Tensor | None  # (B, <= T) target of the behavioural reward head


class Trajectory(NamedTuple):
    """Imagined experience, time first; entry 0 is the start state and a zero action."""

    state: State  # (H+1, N, ...)
    action: Tensor  # (H+1, N, A); action[i] led to state[i]


class BeliefState(NamedTuple):
    """The recurrent state of acting."""

    free: State | None  # (B, ...)
    post: State  # (B, ...)
    action: Tensor  # (B, A) the last action


class StackedModel(nn.Module):
    """Vision, the action-free RSSM, an action-conditional RSSM above it, and reward heads."""

    def __init__(self, model: ModelConfig, cfg: StackedConfig, action_dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.action_dim = action_dim
        self.vision = Vision(model, cfg.context_augment)
        width = self.vision.encoder.width
        self.action_free = RSSM(model.rssm, width, action_dim=0) if model.stacked else None
        if model.stacked:
            width = model.rssm.features + (width if cfg.concat_embed else 0)
        self.rssm = RSSM(model.rssm, width, action_dim)
        self.reward = MLP(cfg.head, model.rssm.features, [1])
        auxiliary = cfg.weights.aux_reward > 0
        self.aux_reward = MLP(cfg.head, model.rssm.features, [1]) if auxiliary else None

    def loss(
        self,
        batch: Batch,
        reward_target: RewardTarget | None = None,
        start: State | None = None,
        random: RandomInputs = RandomInputs(),
    ) -> WorldModelOutput:
        """Loss of a batch of experience.

        Both RSSMs begin in the state `start` (default: zeros), as in the reference, which passes
        the upper model's last posterior. Without `reward_target` the target is the reward.
        """
        pixels = self.vision.pixels(batch.image)
        embed = self.vision.embed(pixels)
        free, free_prior, post, prior = self.observe(
            embed, batch.action, batch.is_first, start, random
        )
        feat = post.feat
        image = self.vision.reconstruct(feat, pixels, random)

        losses = {
            "image": squared_error(image, pixels, axes=(-3, -2, -1)),
            "kl": balanced_kl(post.logit, prior, self.cfg.kl),
        }
        reward, target = batch.reward, None
        if reward is not None:
            target = reward
            if reward_target is not None:
                target = reward_target((free or post).feat.detach(), reward)
            losses["reward"] = squared_error(self.rewards(feat[:, : target.shape[1]]), target)
            if self.aux_reward is not None:
                predicted = self.aux_reward(feat)[0].squeeze(-1)
                losses["aux_reward"] = squared_error(predicted, reward)
        if free is not None and free_prior is not None:
            # A zero weight still gives zero gradients, so weight decay acts on the prior.
            losses["action_free_kl"] = balanced_kl(free.logit, free_prior, self.cfg.kl)
        weights = {name: getattr(self.cfg.weights, name) for name in losses}
        metrics = latent_metrics(post.logit, prior)
        return WorldModelOutput(
            total(losses, weights), losses | metrics, embed, free, post, prior, image, target
        )

    def observe(
        self,
        embed: Tensor,
        action: Tensor,
        is_first: Tensor,
        start: State | None = None,
        random: RandomInputs = RandomInputs(),
    ) -> tuple[State | None, Tensor | None, State, Tensor]:
        """Posterior states and prior logits of the lower and the upper RSSM; see `RSSM.observe`.

        The lower ones are None when the model is not stacked.
        """
        start = start or self.rssm.initial(len(embed), embed)
        inputs, free, free_prior = embed, None, None
        if self.action_free is not None:
            free, free_prior = self.action_free.observe(
                embed, None, is_first, start, random.gumbel_free
            )
            inputs = self._upper_input(embed, free)
        post, prior = self.rssm.observe(inputs, action, is_first, start, random.gumbel)
        return free, free_prior, post, prior

    def _upper_input(self, embed: Tensor, free: State) -> Tensor:
        """What the upper RSSM observes: the action-free features, optionally with the embedding."""
        return torch.cat([embed, free.feat], -1) if self.cfg.concat_embed else free.feat

    def rewards(self, feat: Tensor) -> Tensor:
        """Predicted behavioural reward (...) of features (..., F)."""
        return self.reward(feat)[0].squeeze(-1)

    def imagine(
        self,
        policy: Callable[[Tensor, int], Tensor],
        start: State,
        horizon: int,
        noise: Tensor | None = None,
    ) -> Trajectory:
        """Roll the upper model out from `start` (N, ...) under `policy(feat, i) -> action`.

        The policy gets detached features. Gumbel noise `noise` (H, N, S, K) is drawn if None.
        """
        state, states = start, [start]
        actions = [start.deter.new_zeros(len(start.deter), self.action_dim)]
        for i in range(horizon):
            action = policy(state.feat.detach(), i)
            state = self.rssm.imagine_step(state, action, None if noise is None else noise[i])
            states.append(state)
            actions.append(action)
        stacked = State(*(torch.stack(parts) for parts in zip(*states, strict=True)))
        return Trajectory(stacked, torch.stack(actions))

    def initial_belief(self, batch: int) -> BeliefState:
        """The belief before the first observation."""
        like = next(self.parameters())
        zero = self.rssm.initial(batch, like)
        free = zero if self.action_free is not None else None
        return BeliefState(free, zero, like.new_zeros(batch, self.action_dim))

    def observe_step(
        self,
        belief: BeliefState,
        image: Tensor,
        is_first: Tensor,
        noise_free: Tensor,
        noise: Tensor,
    ) -> BeliefState:
        """Update the belief by one image (B, 64, 64, 3) uint8; acting needs no context frame.

        The caller then stores the action that it takes in the result. Latents are sampled, also in
        evaluation, as in the reference: `noise_free` and `noise` are Gumbel noise (B, 1, S, K).
        """
        embed = self.vision.embed(self.vision.pixels(image[:, None]))
        is_first = is_first[:, None]
        inputs, free = embed, None
        if self.action_free is not None and belief.free is not None:
            free, _ = self.action_free.observe(embed, None, is_first, belief.free, noise_free)
            inputs, free = self._upper_input(embed, free), free.step(0)
        action = belief.action[:, None]
        post, _ = self.rssm.observe(inputs, action, is_first, belief.post, noise)
        return BeliefState(free, post.step(0), belief.action)
