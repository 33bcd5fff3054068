"""Returns of imagined trajectories: pure functions, time first.

Shapes: H horizon, N trajectories. Reward i is received on arrival in state i.
"""

import torch
from torch import Tensor


def lambda_return(
    reward: Tensor, value: Tensor, bootstrap: Tensor, discount: float | Tensor, lambda_: float
) -> Tensor:
    """G_i = r_i + d_i ((1 - lambda) v_{i+1} + lambda G_{i+1}), with G_H = v_H = bootstrap.

    reward, value: (H, N); bootstrap: (N,). Returns (H, N). DreamerV2, equation 4.
    """
    following = torch.cat([value[1:], bootstrap[None]])
    inputs = reward + discount * following * (1 - lambda_)
    gains = torch.ones_like(reward) * (discount * lambda_)
    result, returns = bootstrap, []
    for i in reversed(range(len(reward))):
        result = inputs[i] + gains[i] * result
        returns.append(result)
    return torch.stack(returns[::-1])


def discount_weights(length: int, discount: float, like: Tensor) -> Tensor:
    """Weights 1, d, d^2, ... of the steps of an imagined trajectory, (length, 1)."""
    return (discount ** torch.arange(length, device=like.device, dtype=like.dtype))[:, None]
