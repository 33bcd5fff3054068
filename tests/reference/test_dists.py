"""Distributions, returns, the normaliser and the encoder's rate equal the official ones."""

import pytest
import torch
from golden import (
    RSSM,
    Golden,
    categorical_log_prob,
    close,
    in_float64_and_float32,
    truncated_normal_log_prob,
    truncated_normal_mean,
)

from cwm.agent import Agent
from cwm.behavior.actor_critic import TruncatedNormal
from cwm.behavior.normalize import RunningMagnitude
from cwm.behavior.returns import lambda_return
from cwm.nn.batch import Batch
from cwm.nn.dists import categorical_entropy, one_hot_sample
from cwm.settings import AgentConfig, ModelConfig, VisionConfig
from cwm.world.losses import squared_error


@in_float64_and_float32
def test_truncated_normal(numbers):
    golden = Golden("dists", numbers)
    loc, scale, uniform = (golden.input(f"tn_{x}") for x in ("loc", "std", "uniform"))
    policy = TruncatedNormal(loc.requires_grad_(), scale.requires_grad_())
    close(policy.mode(), golden["out/tn_mode"])
    close(truncated_normal_mean(policy), golden["out/tn_mean"])
    close(truncated_normal_log_prob(policy, policy.sample(uniform)), golden["out/tn_log_prob"])
    for name, value in {"sample": policy.sample(uniform), "entropy": policy.entropy()}.items():
        close(value, golden[f"out/tn_{name}"])
        by_loc, by_scale = torch.autograd.grad(value.sum(), [loc, scale])
        close(by_loc, golden[f"out/tn_{name}_grad_loc"])
        close(by_scale, golden[f"out/tn_{name}_grad_std"])
    assert not golden.unread("out/tn_")


@in_float64_and_float32
def test_categorical(numbers):
    golden = Golden("dists", numbers)
    logits = golden.input("oh_logit")
    close(categorical_entropy(logits), golden["out/oh_entropy"])
    close(one_hot_sample(logits, torch.zeros(())), golden["out/oh_mode"])
    close(categorical_log_prob(logits, golden.input("oh_value")), golden["out/oh_log_prob"])
    assert not golden.unread("out/oh_")


@in_float64_and_float32
def test_squared_error(numbers):
    golden = Golden("dists", numbers)
    pairs = zip(golden.input("mse_mean"), golden.input("mse_value"), strict=True)
    errors = [squared_error(mean, value, axes=(0, 1, 2)) for mean, value in pairs]
    close(-torch.stack(errors), golden["out/mse_log_prob"])


@pytest.mark.parametrize("lambda_", [0.95, 0.0, 1.0])
@in_float64_and_float32
def test_lambda_return(lambda_, numbers):
    golden = Golden("dists", numbers)
    names = ("reward", "value", "bootstrap", "discount")
    returns = lambda_return(*(golden.input(f"lambda_{x}") for x in names), lambda_)
    close(returns, golden[f"out/lambda_return_{lambda_}"])


@pytest.mark.parametrize("momentum", [0.99, 1.0, 0.0])
@in_float64_and_float32
def test_running_magnitude(momentum, numbers):
    golden = Golden("dists", numbers)
    norm = RunningMagnitude(momentum)
    outputs, magnitudes = [], []
    for x in golden.input("norm_inputs"):
        outputs.append(norm(x))
        magnitudes.append(norm.magnitude.clone())
    close(torch.stack(outputs), golden[f"out/norm_outputs_momentum_{momentum}"])
    close(torch.stack(magnitudes), golden[f"out/norm_mag_momentum_{momentum}"])


@in_float64_and_float32
def test_encoder_rate_is_zero_in_first_updates(numbers):
    """The official option `pretrain`, here 3 updates."""
    golden = Golden("dists", numbers)
    model = ModelConfig(VisionConfig(depth=4, layers=1), context=None, rssm=RSSM)
    agent = Agent(model, AgentConfig(encoder_frozen=3), action_dim=1)
    image = torch.zeros(1, 6, 64, 64, 3, dtype=torch.uint8)
    batch = Batch(image, torch.zeros(1, 6), torch.zeros(1, 6, 1), torch.zeros(1, 6))
    rates = []
    for _ in range(6):
        agent.update(batch)
        rates.append(agent.optimizers["encoder"].adam.param_groups[0]["lr"].item())
    close(torch.tensor(rates), golden["out/encoder_lr_before_update_pretrain3"])
