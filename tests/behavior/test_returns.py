"""Returns against hand-computed values."""

import torch
from torch import tensor

from cwm.behavior.returns import discount_weights, lambda_return


def column(*values):
    return tensor(values)[:, None]


def test_lambda_1_is_the_discounted_sum_with_bootstrap():
    returns = lambda_return(column(1.0, 2.0, 4.0), torch.zeros(3, 1), tensor([8.0]), 0.5, 1.0)
    assert returns.flatten().tolist() == [4.0, 6.0, 8.0]  # 1 + 6/2, 2 + 8/2, 4 + 8/2


def test_lambda_0_is_the_one_step_return():
    value = column(10.0, 20.0, 40.0)
    returns = lambda_return(column(1.0, 2.0, 4.0), value, tensor([8.0]), 0.5, 0.0)
    assert returns.flatten().tolist() == [11.0, 22.0, 8.0]


def test_lambda_between_0_and_1_matches_hand_computed_values():
    value = column(10.0, 20.0)
    returns = lambda_return(column(1.0, 2.0), value, tensor([40.0]), 0.5, 0.5)
    # G1 = 2 + (40 + 40) / 4 = 22; G0 = 1 + (20 + 22) / 4 = 11.5
    assert returns.flatten().tolist() == [11.5, 22.0]


def test_discount_weights():
    assert discount_weights(3, 0.5, torch.zeros(1)).flatten().tolist() == [1.0, 0.5, 0.25]
