"""The agent as a policy."""

from copy import deepcopy

import numpy as np
import torch

from cwm.agent import Agent
from cwm.world.stacked import BeliefState


class AgentPolicy:
    """The agent, and what it has seen of the episodes that it is in."""

    def __init__(self, agent: Agent, explore: bool) -> None:
        self.agent = agent
        self.explore = explore
        self.belief: BeliefState | None = None

    def __call__(self, image: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        """Actions (B, A) at images (B, 64, 64, 3); rows with `is_first` begin anew."""
        action, self.belief = self.agent.act(image, is_first, self.belief, self.explore)
        return action

    def sync_weights(self) -> None:
        """An update is about to begin."""


class DelayedPolicy(AgentPolicy):
    """An actor that does not wait for the update that a GPU is busy with.

    It has weights of its own: those before the last update, or, at the first step of an episode,
    those after it.
    """

    def __init__(self, agent: Agent, explore: bool) -> None:
        super().__init__(deepcopy(agent), explore)
        self.ahead = agent
        self.stream = torch.cuda.Stream() if next(agent.parameters()).is_cuda else None

    def __call__(self, image: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        """Actions (B, A) at images (B, 64, 64, 3); rows with `is_first` begin anew."""
        if is_first.any():
            self.sync_weights()
        with torch.cuda.stream(self.stream):
            return super().__call__(image, is_first)

    @torch.no_grad()
    def sync_weights(self) -> None:
        """Take the weights, once the updates so far have made them."""
        theirs = self.ahead.state_dict()
        for name, mine in self.agent.state_dict().items():
            mine.copy_(theirs[name])
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())
