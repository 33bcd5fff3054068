"""Imagination, actor-critic losses, acting and the bonus equal the official ones."""

import pytest
import torch
from golden import (
    ABOUT,
    BEHAVIOR,
    HEAD,
    MODE,
    Golden,
    close,
    close_gradients,
    close_state,
    gradient_norm,
    in_float64_and_float32,
    margin,
    model_config,
    state,
    truncated_normal_log_prob,
    truncated_normal_mean,
)

from cwm.agent import Agent
from cwm.behavior.bonus import VideoBonus
from cwm.behavior.returns import discount_weights, lambda_return
from cwm.nn.rssm import State
from cwm.settings import AgentConfig, BonusConfig, StackedConfig


@in_float64_and_float32
@pytest.mark.parametrize("case", ["argmax", "gumbel"])
def test_imagination(case, numbers):
    golden, out = Golden("actor_critic", numbers), f"out/{case}"
    cfg = AgentConfig(StackedConfig(head=HEAD), BEHAVIOR, BonusConfig(beta=0.0))
    agent = numbers.cast(Agent(model_config(context=False), cfg, ABOUT["actions"]))
    world, behavior, horizon = agent.world, agent.behavior, BEHAVIOR.horizon
    ours = "_task_behavior."
    golden.load(world.rssm, "world.rssm")
    golden.load(world.reward, "world.reward")
    golden.load(behavior.actor, "behavior.actor", theirs=ours)
    golden.load(behavior.critic, "behavior.critic", theirs=ours)
    golden.load(behavior.target, "behavior.target", "target_critic.", f"{ours}_target_critic.")
    uniform = golden.input("uniform_action")
    noise = golden.input("gumbel") if case == "gumbel" else MODE.expand(horizon, 1, 1, 1)
    start = State(*(x.flatten(0, 1) for x in state(golden, "start")))
    imagined = world.imagine(
        lambda f, i: behavior.policy(f).sample(uniform[i]), start, horizon, noise
    )
    feat = imagined.state.feat
    close_state(imagined.state, golden, f"{out}/seq")
    close(feat, golden[f"{out}/seq/feat"])
    close(imagined.action, golden[f"{out}/seq/action"])
    close(margin(imagined.state.logit[1:] + noise), golden[f"{out}/smallest_argmax_margin"])
    reward = world.rewards(feat)
    close(reward, golden[f"{out}/reward"])
    weights = discount_weights(horizon + 1, BEHAVIOR.discount, reward).expand_as(reward)
    close(weights, golden[f"{out}/seq/weight"])
    close(torch.full_like(reward, BEHAVIOR.discount), golden[f"{out}/seq/discount"])

    value = behavior.target(feat)[0].squeeze(-1)
    returns = lambda_return(reward[:-1], value[:-1], value[-1], BEHAVIOR.discount, BEHAVIOR.lambda_)
    close(returns, golden[f"{out}/target_before_actor_loss"])
    losses = behavior.losses(feat, reward)
    close(losses.target, golden[f"{out}/target_seen_by_critic_loss"])
    close(losses.actor, golden[f"{out}/actor_loss"])
    close(losses.critic, golden[f"{out}/critic_loss"])
    close(losses.terms["actor_entropy"], golden[f"{out}/actor_metrics/actor_ent"])
    close(losses.terms["imagined_value"], golden[f"{out}/critic_metrics/critic"])
    close(BEHAVIOR.entropy, golden[f"{out}/actor_metrics/actor_ent_scale"])
    policy = behavior.policy(feat[:-2])
    close(policy.entropy(), golden[f"{out}/policy_entropy"])
    close(policy.mode(), golden[f"{out}/policy_mode"])
    close(truncated_normal_mean(policy), golden[f"{out}/policy_mean"])
    close(
        truncated_normal_log_prob(policy, imagined.action[1:-1]), golden[f"{out}/policy_log_prob"]
    )
    (losses.actor + losses.critic).backward()
    for name in ("actor", "critic"):
        part = getattr(behavior, name)
        close_gradients(golden, part, f"behavior.{name}", ours, f"grad_{case}")
        close(gradient_norm(part.parameters()), golden[f"grad_{case}_total_norm/{name}"])
    assert not golden.unread(f"{out}/", f"grad_{case}")


@in_float64_and_float32
@pytest.mark.parametrize("kind", ["abs", "rel"])
def test_bonus(kind, numbers):
    golden = Golden("bonus", numbers)
    beta, settings = golden.settings[f"beta_{kind}"], golden.settings
    queue, width = settings["queue_size"], settings["queue_dim"]
    cfg = BonusConfig(beta, kind, neighbours=settings["k"], queue=queue, width=width)
    bonus = numbers.cast(VideoBonus(cfg, settings["feat_dim"]))
    bonus.projection.copy_(golden.weight("random_projection_matrix"))
    for i in range(4):
        out = f"out/{kind}/batch{i}"
        reward = golden.input("reward")[i]
        target = bonus(golden.input("feat")[i], reward)
        close(target, golden[f"{out}/reward"])
        close(target.shape[1], golden[f"{out}/length"])
        close(bonus.norm.magnitude, golden[f"{out}/mag"])
        close(bonus.queue[: bonus.filled], golden[f"{out}/queue"])
        if kind == "rel":
            beta = cfg.beta * bonus.reward_scale.magnitude
            close(beta, golden[f"{out}/metrics/abs_beta"])
        added = (target - reward[:, : target.shape[1]]) / beta
        for name, x in {"intr_normed": added, "intr": added * bonus.norm.magnitude}.items():
            close(x.mean(), golden[f"{out}/metrics/{name}_mean"])
            close(x.std(), golden[f"{out}/metrics/{name}_std"])
        close(reward.mean(), golden[f"{out}/metrics/plain_reward_mean"])
        close(bonus.norm.magnitude, golden[f"{out}/metrics/intr_mag"])
    assert not golden.unread(f"out/{kind}/")


@pytest.mark.parametrize(
    "kind", ["plainresnet", "plainresnet_concat", "contextualized", "contextualized_concat"]
)
@pytest.mark.parametrize("explore", [False, True])
@in_float64_and_float32
def test_acting(kind, explore, numbers):
    golden = Golden("policy", numbers)
    world = StackedConfig(concat_embed="concat" in kind, head=HEAD)
    cfg = AgentConfig(world, BEHAVIOR, BonusConfig(beta=0.0))
    agent = numbers.cast(
        Agent(model_config(context="context" in kind), cfg, ABOUT["actions"])
    ).eval()
    world = agent.world
    prefix = f"{kind}/"
    golden.load(world.vision.encoder, "world.vision.encoder", prefix)
    golden.load(world.action_free, "world.action_free", prefix)
    golden.load(world.rssm, "world.rssm", prefix)
    golden.load(agent.behavior.actor, "behavior.actor", prefix, "_task_behavior.")
    out, actions = f"out/{kind}/{'train' if explore else 'eval'}", []
    images, firsts = golden.image("image"), golden.input("is_first")
    belief = world.initial_belief(len(images))
    for t in range(images.shape[1]):
        image, first = images[:, t], firsts[:, t]
        belief = world.observe_step(belief, image, first, MODE, MODE)
        policy = agent.behavior.policy(belief.post.feat)
        uniform = golden.input("uniform_action")[t]
        actions.append(policy.sample(uniform) if explore else policy.mode())
        belief = belief._replace(action=actions[-1])
    close(torch.stack(actions, 1), golden[f"{out}/action"])
    close(belief.post.deter, golden[f"{out}/deter"])
    close(belief.post.stoch, golden[f"{out}/stoch"])
    close(belief.free.deter, golden[f"{out}/af_deter"])
    assert not golden.unread(f"{out}/")
