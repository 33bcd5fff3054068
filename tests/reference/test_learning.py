"""Losses and training steps equal the official ones for the same weights and random inputs."""

import pytest
import torch
from golden import (
    ABOUT,
    BEHAVIOR,
    HEAD,
    MODE,
    Golden,
    batch,
    close,
    close_gradients,
    close_state,
    gradient_norm,
    in_float64_and_float32,
    keep,
    margin,
    model_config,
    random_inputs,
    sizes,
    state,
    weight,
)

from cwm.agent import Agent
from cwm.convert import to_official
from cwm.nn.dists import categorical_entropy, categorical_kl, one_hot_sample
from cwm.nn.optim import Optimizer, step_all
from cwm.nn.rssm import State
from cwm.settings import (
    ActionFreeConfig,
    AgentConfig,
    BonusConfig,
    KLConfig,
    LossWeights,
    OptimizerConfig,
    StackedConfig,
)
from cwm.world.action_free import ActionFreeModel
from cwm.world.openloop import predict

# Our figures -> the official metrics.
LOSS = {
    "image": "image_loss",
    "kl": "kl_loss",
    "reward": "reward_loss",
    "aux_reward": "aux_reward_loss",
    "action_free_kl": "af_kl_loss",
    "kl_value": "model_kl",
    "prior_entropy": "prior_ent",
    "post_entropy": "post_ent",
}
UPDATE = {
    "encoder_norm": "enc_model_grad_norm",
    "world_norm": "model_grad_norm",
    "actor": "actor_loss",
    "critic": "critic_loss",
    "actor_norm": "actor_grad_norm",
    "critic_norm": "critic_grad_norm",
    "actor_entropy": "actor_ent",
    "imagined_reward": "reward_mean",
    "imagined_value": "critic",
    "imagined_return": "critic_target",
    "bonus_magnitude": "intr_mag",
}
OPTIMIZERS = {"encoder": "enc_model", "world": "model", "actor": "actor", "critic": "critic"}


@in_float64_and_float32
@pytest.mark.parametrize("kind", ["plain", "ctx"])
def test_pretraining(kind, numbers):
    golden = Golden(f"pretrain_{kind}", numbers)
    world = numbers.cast(ActionFreeModel(model_config(kind == "ctx"), ActionFreeConfig())).train()
    golden.load(world, "world")
    output = world.loss(batch(golden, 0), state(golden, "start"), random_inputs(golden, 0))
    close_outputs(golden, world, output)
    close_moments(golden, "out/metrics", output)
    close(margin(output.post.logit, output.prior), golden["out/smallest_argmax_margin"])
    output.loss.backward()
    close_gradients(golden, world, "world")
    for name in ("grad_total_norm/wm", "out/optimizer_grad_norm/model"):
        close(gradient_norm(world.parameters()), golden[name])

    golden.load(world, "world")
    optimizer = Optimizer(OptimizerConfig(), world.parameters())
    belief = state(golden, "start")
    for i in range(steps(golden)):
        step = f"step{i}"
        output = world.loss(batch(golden, i), belief, random_inputs(golden, i))
        (norm,) = step_all(output.loss, [optimizer])
        close(output.loss, golden[f"{step}/model_loss"])
        close(norm, golden[f"{step}/model_grad_norm"])
        close(rate(optimizer), golden[f"{step}/lr_after/model"])
        close_figures(golden, step, output.terms, LOSS)
        close_moments(golden, step, output)
        close(margin(output.post.logit, output.prior), golden[f"{step}/smallest_argmax_margin"])
        belief = last(output.post)
        close_state(belief, golden, f"{step}/state")
    close_weights(golden, world)

    index, kept = random_inputs(golden, 0).context_index, keep_openloop(golden)
    predicted = predict(world.eval(), batch(golden, 0), 5, MODE, kept, index)
    close(predicted, golden["out/openloop_model"])
    assert not golden.unread()


@in_float64_and_float32
@pytest.mark.parametrize(
    "name", ["finetune_plain", "finetune_ctx", "finetune_ctx_metaworld", "dreamerv2"]
)
def test_finetuning(name, numbers):
    golden = Golden(name, numbers)
    agent = numbers.cast(build_agent(name, golden.settings))
    golden.load(agent, "")
    agent.train()
    start = state(golden, "start")
    output = agent.world.loss(batch(golden, 0), agent.bonus, start, random_inputs(golden, 0))
    close_outputs(golden, agent.world, output)
    predicted = agent.world.rewards(output.post.feat[:, : output.target.shape[1]])
    close(log_prob(predicted, output.target), golden["out/log_prob/reward"])
    close_experience(golden, "out/metrics", agent, batch(golden, 0), output)
    close(margin(*scores(agent.world, output)), golden["out/smallest_argmax_margin"])
    output.loss.backward()
    close_gradients(golden, agent.world, "world")
    close(gradient_norm(agent.world.parameters()), golden["grad_total_norm/wm"])
    world_optimizers = agent.optimizers.keys() - {"actor", "critic"}
    for part in world_optimizers:
        norm = gradient_norm(agent.optimizers[part].parameters)
        close(norm, golden[f"out/optimizer_grad_norm/{OPTIMIZERS[part]}"])

    agent = numbers.cast(build_agent(name, golden.settings))
    golden.load(agent, "")
    before = build_agent(name, golden.settings).to(numbers.dtype)
    noise = MODE.expand(BEHAVIOR.horizon)
    for i in range(steps(golden)):
        before.load_state_dict(agent.state_dict())
        uniform = golden.input(f"batch{i}/uniform_action")
        figures = agent.update(batch(golden, i), start, random_inputs(golden, i), uniform, noise)
        close_figures(golden, f"step{i}", figures, LOSS | UPDATE)
        close_rates(golden, i, agent)
        output = before.world.loss(batch(golden, i), before.bonus, start, random_inputs(golden, i))
        for part in world_optimizers:
            close(output.loss, golden[f"step{i}/{OPTIMIZERS[part]}_loss"])
        close_experience(golden, f"step{i}", before, batch(golden, i), output)
        logits = close_imagination(golden, f"step{i}", agent, before, output, uniform, noise)
        every = margin(*scores(before.world, output), logits)
        close(every, golden[f"step{i}/smallest_argmax_margin"])
        start = last(output.post)
        close_state(start, golden, f"step{i}/state")
    close_weights(golden, agent)
    close_openloop(golden, agent.eval())
    agent.update(batch(golden, 0))
    close_rates(golden, i + 1, agent)
    assert not golden.unread()


def steps(golden):
    """How many train steps were recorded."""
    return sum(name.endswith("/model_loss") for name in golden.recorded)


def build_agent(name, settings):
    context, dreamer = "ctx" in name, name == "dreamerv2"
    world = StackedConfig(
        kl=KLConfig(free=settings["kl.free"]),
        weights=LossWeights(aux_reward=1.0 if context else 0.0),
        concat_embed=settings.get("concat_embed", False),
        head=HEAD,
    )
    cfg = AgentConfig(
        world=world,
        behavior=BEHAVIOR,
        bonus=BonusConfig(settings["beta"], **sizes("neighbours", "queue", "width")),
        encoder_frozen=settings["pretrain"] if settings.get("enc_lr_type") == "no_pretrain" else 0,
    )
    return Agent(model_config(context, "cnn" if dreamer else "resnet"), cfg, ABOUT["actions"])


def last(states):
    return State(*(x[:, -1] for x in states.detach()))


def rate(optimizer):
    return optimizer.adam.param_groups[0]["lr"].item()


def log_prob(mean, target):
    return -0.5 * (mean - target).square()


def scores(world, output):
    """Whatever an argmax was taken of."""
    free = (output.free.logit, world.action_free.prior(output.free.deter)) if output.free else ()
    return output.post.logit, output.prior, *free


def close_figures(golden, prefix, figures, names):
    """Those of the named figures that this model has."""
    for ours in figures.keys() & names.keys():
        close(figures[ours], golden[f"{prefix}/{names[ours]}"])


def close_outputs(golden, world, output):
    """What `out/` has of every whole model, after the loss of batch 0."""
    close(output.loss, golden["out/loss"])
    close(output.embed, golden["out/embed"])
    close(output.post.feat, golden["out/feat"])
    close_state(output.post, golden, "out/post")
    close_state(last(output.post), golden, "out/last_state")
    prior = State(output.post.deter, one_hot_sample(output.prior, MODE), output.prior)
    close_state(prior, golden, "out/prior")
    close(categorical_kl(output.post.logit, output.prior), golden["out/kl_value"])
    close_figures(golden, "out/metrics", output.terms, LOSS)
    pixels = world.vision.pixels(batch(golden, 0).image)
    close(log_prob(output.image, pixels).sum((-3, -2, -1)), golden["out/log_prob/image"])


def close_moments(golden, prefix, output):
    """The official norms of these figures are mean squares."""
    close(output.embed.square().mean(), golden[f"{prefix}/embed_norm"])
    close(output.post.deter.square().mean(), golden[f"{prefix}/deter_norm"])
    close(output.embed.mean(), golden[f"{prefix}/embed_mean"])
    close(output.embed.std(), golden[f"{prefix}/embed_std"])


def close_experience(golden, prefix, agent, experience, output):
    """Metrics of a stacked model's loss; `agent` has just seen that batch of experience."""
    if output.free is None:
        return
    prior = agent.world.action_free.prior(output.free.deter)
    window = output.target.shape[1]
    bonus = (output.target - experience.reward[:, :window]) / agent.cfg.bonus.beta
    metrics = {
        "embed_mean": output.embed.mean(),
        "embed_abs_mean": output.embed.abs().mean(),
        "af_model_kl": categorical_kl(output.free.logit, prior).mean(),
        "af_prior_ent": categorical_entropy(prior).mean(),
        "af_post_ent": categorical_entropy(output.free.logit).mean(),
        "plain_reward_mean": experience.reward.mean(),
        "intr_mag": agent.bonus.norm.magnitude,
    }
    spread = {
        "reward_target": output.target,
        "reward_predict": agent.world.rewards(output.post.feat[:, :window]),
        "intr": bonus * agent.bonus.norm.magnitude,
        "intr_normed": bonus,
    }
    for name, x in spread.items():
        metrics |= {f"{name}_mean": x.mean(), f"{name}_std": x.std()}
    for name, value in metrics.items():
        close(value, golden[f"{prefix}/{name}"])


def close_imagination(golden, prefix, after, before, output, uniform, noise):
    """The rest of an update's metrics: the new world imagines, the old behaviour acts in it.

    Returns the imagined logits.
    """
    behavior = before.behavior
    start = State(*(x.flatten(0, 1) for x in output.post.detach()))
    imagined = after.world.imagine(
        lambda feat, h: behavior.policy(feat).sample(uniform[h]), start, len(uniform), noise
    ).state
    reward = after.world.rewards(imagined.feat)
    for name in ("reward", "reward_normed"):
        close(reward.mean(), golden[f"{prefix}/{name}_mean"])
        close(reward.std(), golden[f"{prefix}/{name}_std"])
    close(behavior.target(imagined.feat)[0].mean(), golden[f"{prefix}/critic_slow"])
    close(behavior.cfg.entropy, golden[f"{prefix}/actor_ent_scale"])
    return imagined.logit[1:]


def close_rates(golden, i, agent):
    """After update i; the encoder's rate is recorded as it will be in the next update."""
    for part, theirs in OPTIMIZERS.items():
        name = f"step{i - (part == 'encoder')}/lr_after/{theirs}"
        if name in golden.recorded:
            close(rate(agent.optimizers[part]), golden[name])


def close_weights(golden, module):
    """Norms of weights and buffers, and of the way they have come from the weight of that name."""
    for name, value in to_official(module.state_dict()).items():
        if f"final_norm/{name}" in golden.recorded:
            start = torch.as_tensor(weight(name, tuple(value.shape), ABOUT["seed"]))
            close(value.double().norm(), golden[f"final_norm/{name}"])
            close((value - start).double().norm(), golden[f"final_moved/{name}"])


def keep_openloop(golden):
    """Context tokens of five observed frames and the predicted ones, together."""
    clips = len(golden.input("batch0/is_first"))
    parts = [keep(golden, "openloop/", part) for part in ("_observed", "_predicted")]
    if parts[0] is None:
        return None
    return {
        size: torch.cat([part[size].unflatten(0, (clips, -1)) for part in parts], 1).flatten(0, 1)
        for size in parts[0]
    }


def close_openloop(golden, agent):
    """Observe five frames of batch 0 and imagine the sixth."""
    world, clips = agent.world, batch(golden, 0)
    belief, feats = world.initial_belief(len(clips.image)), []
    for t in range(5):
        belief = belief._replace(action=clips.action[:, t])
        belief = world.observe_step(belief, clips.image[:, t], clips.is_first[:, t], MODE, MODE)
        feats.append(belief.post.feat)
    feats.append(world.rssm.imagine_step(belief.post, clips.action[:, 5], MODE).feat)
    chosen = random_inputs(golden, 0)._replace(keep=keep_openloop(golden))
    mean = world.vision.reconstruct(torch.stack(feats, 1), world.vision.pixels(clips.image), chosen)
    close(mean + 0.5, golden["out/openloop_model"])
