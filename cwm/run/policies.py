"""The agent as a policy."""

import numpy as np

from cwm.agent import Agent
from cwm.world.stacked import Filter


class Actor:
    """The agent, and what it has seen of the episodes that it is in."""

    def __init__(self, agent: Agent, explore: bool) -> None:
        self.agent = agent
        self.explore = explore
        self.carried: Filter | None = None

    def __call__(self, image: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        """Actions (B, A) at images (B, 64, 64, 3); rows with `is_first` begin anew."""
        action, self.carried = self.agent.act(image, is_first, self.carried, self.explore)
        return action
