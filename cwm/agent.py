"""The agent: a world model, an actor and critic trained in its imagination, and the bonus.

Reference: `agents/base.py`.
Shapes: B batch, T time, N = B T starts of imagination, A action, H horizon.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from cwm.behavior.actor_critic import ActorCritic
from cwm.behavior.bonus import VideoBonus
from cwm.infra.cuda_graph import CapturedFunction
from cwm.nn.batch import Batch
from cwm.nn.dists import full, gumbel
from cwm.nn.optim import Optimizer, frozen, step_all
from cwm.nn.rssm import State
from cwm.settings import AgentConfig, ModelConfig
from cwm.world.stacked import BeliefState, StackedModel
from cwm.world.vision import RandomInputs


def world_optimizers(world: StackedModel, cfg: AgentConfig) -> dict[str, Optimizer]:
    """The optimizers of a world model: one, or for a stacked model two, `encoder` and `world`."""

    def parameters(*modules: nn.Module | None) -> list[nn.Parameter]:
        return [p for module in modules if module for p in module.parameters()]

    vision = world.vision
    from_video = parameters(vision.encoder, vision.context, world.action_free)
    upper = parameters(world.rssm, vision.decoder, world.reward, world.aux_reward)
    if world.action_free is None:
        return {"world": Optimizer(cfg.world_optimizer, from_video + upper)}
    return {
        "encoder": Optimizer(cfg.encoder_optimizer, from_video),
        "world": Optimizer(cfg.world_optimizer, upper),
    }


class Agent(nn.Module):
    """Acts in environments and learns from batches of experience."""

    def __init__(
        self, model: ModelConfig, cfg: AgentConfig, action_dim: int, precision: str = "fp32"
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.precision = precision
        self.world = StackedModel(model, cfg.world, action_dim)
        self.behavior = ActorCritic(cfg.behavior, model.rssm.features, action_dim)
        self.bonus = VideoBonus(cfg.bonus, model.rssm.features) if cfg.bonus.beta else None
        self.updates = 0
        self.optimizers = self._optimizers()

    def _optimizers(self) -> dict[str, Optimizer]:
        optimizers = {
            "actor": Optimizer(self.cfg.actor_optimizer, self.behavior.actor.parameters()),
            "critic": Optimizer(self.cfg.critic_optimizer, self.behavior.critic.parameters()),
        }
        return optimizers | world_optimizers(self.world, self.cfg)

    def autocast(self) -> AbstractContextManager:
        """bfloat16 autocast for forward passes, if the precision is bf16."""
        device = next(self.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16")

    def capture(self) -> None:
        """Run updates and actions as CUDA graphs from now on; the agent must be on a GPU."""
        vars(self).update(  # hides the methods of this instance
            learn=CapturedFunction(self.learn, self.mutable_state),
            _policy_step=CapturedFunction(self._policy_step),
        )

    def mutable_state(self) -> Iterator[Tensor]:
        """Every tensor that an update changes."""
        yield from self.state_dict().values()
        for optimizer in self.optimizers.values():
            yield from optimizer.state().values()

    def update(self, batch: Batch, *inputs: Any) -> dict[str, Tensor]:
        """Update the world model, then actor and critic from its posterior states.

        `inputs` are the optional arguments of `learn`. Returns metrics, all (), on the device.
        """
        self.train()
        if "encoder" in self.optimizers:
            self.optimizers["encoder"].freeze(self.updates < self.cfg.encoder_frozen)
        metrics = self.learn(*batch, *inputs)
        if self.updates % self.cfg.behavior.target_every == 0:
            self.behavior.copy_target()
        self.updates += 1
        return metrics

    def learn(
        self,
        image: Tensor,
        is_first: Tensor,
        action: Tensor,
        reward: Tensor | None,
        start: State | None = None,
        random: RandomInputs = RandomInputs(),
        uniform: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The part of `update` that a CUDA graph can capture: no Python state changes.

        `start` is the state before the first step, zeros if None. `uniform` (H, N, A) determines
        imagined actions and Gumbel noise `noise` (H, N, S, K) imagined latents; drawn if None.
        """
        batch = Batch(image, is_first, action, reward)
        with self.autocast():
            output = self.world.loss(batch, self.bonus, start, random)
        names = ["encoder", "world"] if "encoder" in self.optimizers else ["world"]
        norms = step_all(output.loss, [self.optimizers[name] for name in names])
        metrics = output.terms | {f"{n}_norm": x for n, x in zip(names, norms, strict=True)}

        post = State(*(x.flatten(0, 1) for x in output.post.detach()))
        metrics |= self._update_behavior(post, uniform, noise)
        if self.bonus is not None:
            metrics["bonus_magnitude"] = self.bonus.norm.magnitude.clone()
        return {name: x.detach() for name, x in metrics.items()}

    def _update_behavior(
        self, start: State, uniform: Tensor | None, noise: Tensor | None
    ) -> dict[str, Tensor]:
        def policy(feat: Tensor, i: int) -> Tensor:
            return self.behavior.policy(feat).sample(None if uniform is None else uniform[i])

        with self.autocast():
            horizon = self.cfg.behavior.horizon
            with frozen(self.world):
                feat = self.world.imagine(policy, start, horizon, noise).state.feat
                reward = self.world.rewards(feat)
            losses = self.behavior.losses(feat, reward)
        actor, critic = self.optimizers["actor"], self.optimizers["critic"]
        (actor_norm,) = step_all(losses.actor, [actor])
        (critic_norm,) = step_all(losses.critic, [critic])
        return losses.terms | {
            "actor": losses.actor,
            "critic": losses.critic,
            "actor_norm": actor_norm,
            "critic_norm": critic_norm,
        }

    @torch.no_grad()
    def act(
        self, image: np.ndarray, is_first: np.ndarray, belief: BeliefState | None, explore: bool
    ) -> tuple[np.ndarray, BeliefState]:
        """Actions (B, A) for images (B, 64, 64, 3) uint8: sampled if exploring, else the mode.

        `belief` is the result of the last call, or None at first; rows with `is_first` (B,) reset
        it. Random numbers come from the CPU's generator on every device, because the GPU's
        generator may be in use by an update that is still running.
        """
        self.eval()
        device = next(self.parameters()).device
        rssm = self.world.rssm.cfg
        noise = gumbel((2, len(image), 1, rssm.stoch, rssm.classes), torch.empty(0))
        uniform = torch.rand(len(image), self.world.action_dim)
        first = torch.as_tensor(is_first, dtype=torch.float32)
        inputs = (torch.as_tensor(image), first, noise, uniform)
        belief = belief or self.world.initial_belief(len(image))
        sample, mode, after = self._policy_step(belief, *(x.to(device) for x in inputs))
        action = sample if explore else mode
        return action.cpu().numpy(), after._replace(action=action)

    def _policy_step(
        self, before: BeliefState, image: Tensor, first: Tensor, noise: Tensor, uniform: Tensor
    ) -> tuple[Tensor, Tensor, BeliefState]:
        """A sampled action (B, A), the mode (B, A), and the belief after the image.

        Gumbel noise `noise` (2, B, 1, S, K) is for the action-free and the upper RSSM.
        """
        with self.autocast():
            after = self.world.observe_step(before, image, first, *noise)
            policy = self.behavior.policy(after.post.feat)
        # float32, like the first belief, so that all steps share one CUDA graph.
        return policy.sample(uniform), policy.mode(), tree_map_only(Tensor, full, after)
