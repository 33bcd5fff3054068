"""The agent as a policy."""

from copy import deepcopy

import numpy as np
import torch

from cwm.agent import Agent
from cwm.world.stacked import BeliefState


class AgentPolicy:
    """Acts by an agent and keeps its belief from step to step."""

    def __init__(self, agent: Agent, explore: bool) -> None:
        self.agent = agent
        self.explore = explore
        self.belief: BeliefState | None = None

    def __call__(self, image: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        """Actions (B, A) for images (B, 64, 64, 3); rows with `is_first` (B,) reset the belief."""
        action, self.belief = self.agent.act(image, is_first, self.belief, self.explore)
        return action

    def sync_weights(self) -> None:
        """Called before each update; this policy shares the weights of the agent that learns."""


class DelayedPolicy(AgentPolicy):
    """Acts with a copy of the weights, so that it need not wait for a running update.

    The copy has the weights before the last update; the first step of an episode takes the latest.
    """

    def __init__(self, agent: Agent, explore: bool) -> None:
        super().__init__(deepcopy(agent), explore)
        self.learner = agent
        self.stream = torch.cuda.Stream() if next(agent.parameters()).is_cuda else None

    def __call__(self, image: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        """Actions (B, A) for images (B, 64, 64, 3), computed on a stream of their own."""
        if is_first.any():
            self.sync_weights()
        with torch.cuda.stream(self.stream):
            return super().__call__(image, is_first)

    @torch.no_grad()
    def sync_weights(self) -> None:
        """Copy the weights as soon as the updates that are queued have finished."""
        latest = self.learner.state_dict()
        for name, tensor in self.agent.state_dict().items():
            tensor.copy_(latest[name])
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())
