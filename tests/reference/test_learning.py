"""Whole losses and train steps are the official ones, given the same weights and draws."""

import json

import pytest
import torch
from golden import HEAD, MODE, OURS_ALONE, Golden, batch, close, draws, keep, model_config, state

from cwm.agent import Agent, AgentConfig
from cwm.behavior.actor_critic import BehaviorConfig
from cwm.behavior.bonus import BonusConfig, VideoBonus
from cwm.convert import official_name
from cwm.nn.rssm import State
from cwm.optim import Optimizer, OptimizerConfig, step_all
from cwm.world.action_free import ActionFreeConfig, ActionFreeModel
from cwm.world.losses import KLConfig
from cwm.world.openloop import predict
from cwm.world.stacked import LossWeights, StackedConfig

# Our figure -> the official metric of a train step.
METRICS = {
    "image": "image_loss",
    "kl": "kl_loss",
    "reward": "reward_loss",
    "aux_reward": "aux_reward_loss",
    "action_free_kl": "af_kl_loss",
    "kl_value": "model_kl",
    "prior_entropy": "prior_ent",
    "post_entropy": "post_ent",
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


def check_gradients(golden, names, gradients):
    """Every golden gradient has ours, and is it; a bias before a batch norm has none but noise."""
    left = set(golden.names("grad/"))
    for name, gradient in zip(names, gradients, strict=True):
        key = f"grad/{official_name(name)}"
        left.remove(key)
        if golden[key].abs().max() > 1e-12:
            close(gradient.reshape(golden[key].shape), golden[key])
    assert not left


def check_weights(golden, module, prefix):
    for name, value in module.state_dict().items():
        key = f"final_norm/{official_name(prefix + name)}"
        if not name.endswith((*OURS_ALONE, "num_batches_tracked", "queue")):
            close(value.norm(), golden[key])


@pytest.mark.parametrize("kind", ["plain", "ctx"])
def test_pretraining(kind):
    golden = Golden(f"pretrain_{kind}")
    world = ActionFreeModel(model_config(kind == "ctx"), ActionFreeConfig()).double().train()
    golden.load(world, "world")
    seen = world.loss(batch(golden, 0), state(golden, "in/start"), draws(golden, 0))
    close(seen.loss, golden["out/loss"])
    close(seen.embed, golden["out/embed"])
    close(seen.post.logit, golden["out/post/logit"])
    close(seen.prior, golden["out/prior/logit"])
    names = {f"world.{name}": p for name, p in world.named_parameters()}
    check_gradients(golden, names, torch.autograd.grad(seen.loss, list(names.values())))

    golden.load(world, "world")
    optimizer = Optimizer(OptimizerConfig(), world.parameters())
    carried = state(golden, "in/start")
    for i in range(3):
        seen = world.loss(batch(golden, i), carried, draws(golden, i))
        close(seen.loss, golden[f"step{i}/model_loss"])
        for name in ("image", "kl", "kl_value", "prior_entropy", "post_entropy"):
            close(seen.terms[name], golden[f"step{i}/{METRICS[name]}"])
        (norm,) = step_all(seen.loss, [optimizer], [False])
        close(norm, golden[f"step{i}/model_grad_norm"])
        carried = State(*(x[:, -1] for x in seen.post.detach()))
    check_weights(golden, world, "world.")

    kept = None
    if kind == "ctx":
        parts = [keep(golden, "in/openloop", part) for part in ("_observed", "_predicted")]
        kept = {
            size: torch.cat([p[size].unflatten(0, (3, -1)) for p in parts], 1).flatten(0, 1)
            for size in (8, 16)
        }
    index = draws(golden, 0).context_index
    predicted = predict(world.eval(), batch(golden, 0), 5, MODE, kept, index)
    close(predicted, golden["out/openloop_model"], tolerance=1e-3)


@pytest.mark.parametrize(
    "name", ["finetune_plain", "finetune_ctx", "finetune_ctx_metaworld", "dreamerv2"]
)
def test_finetuning(name):
    golden = Golden(name)
    settings = json.loads(str(golden.arrays["settings/json"][()]))
    context, dreamer = "ctx" in name, name == "dreamerv2"
    world = StackedConfig(
        kl=KLConfig(free=settings["kl.free"]),
        weights=LossWeights(aux_reward=1.0 if context else 0.0),
        concat_embed=settings.get("concat_embed", False),
        head=HEAD,
    )
    beta = 0.0 if dreamer else settings["beta"]
    cfg = AgentConfig(
        world=world,
        behavior=BehaviorConfig(actor=HEAD, critic=HEAD, horizon=5),
        bonus=BonusConfig(beta=beta, neighbours=4, queue=32, width=12),
        encoder_frozen=settings["pretrain"] if settings.get("enc_lr_type") == "no_pretrain" else 0,
    )
    agent = Agent(model_config(context, "cnn" if dreamer else "resnet"), cfg, 3).double()
    golden.load(agent, "")
    agent.train()
    start = state(golden, "in/start")
    seen = agent.world.loss(batch(golden, 0), agent.bonus, start, draws(golden, 0))
    close(seen.loss, golden["out/loss"])
    close(seen.post.logit, golden["out/post/logit"])
    close(seen.prior, golden["out/prior/logit"])
    names = {f"world.{name}": p for name, p in agent.world.named_parameters()}
    gradients = torch.autograd.grad(seen.loss, list(names.values()), materialize_grads=True)
    check_gradients(golden, names, gradients)

    golden.load(agent, "")
    for i in range(sum(n.endswith("/model_loss") for n in golden.names("step"))):
        uniform = golden[f"in/batch{i}/uniform_action"]
        noise = torch.zeros(5, 1, 1, 1, dtype=torch.float64)
        figures = agent.update(batch(golden, i), start, draws(golden, i), uniform, noise)
        for ours, theirs in METRICS.items():
            if ours in figures:
                close(figures[ours], golden[f"step{i}/{theirs}"])
        start = state(golden, f"step{i}/state")
    check_weights(golden, agent, "")


@pytest.mark.parametrize("case", ["argmax", "gumbel"])
def test_imagination(case):
    golden = Golden("actor_critic")
    cfg = AgentConfig(
        world=StackedConfig(head=HEAD),
        behavior=BehaviorConfig(actor=HEAD, critic=HEAD, horizon=5),
        bonus=BonusConfig(beta=0.0),
    )
    agent = Agent(model_config(context=False), cfg, 3).double()
    world, behavior = agent.world, agent.behavior
    golden.load(world.rssm, "world.rssm")
    golden.load(world.reward, "world.reward")
    golden.load(behavior.actor, "behavior.actor", theirs="_task_behavior.")
    golden.load(behavior.critic, "behavior.critic", theirs="_task_behavior.")
    golden.load(
        behavior.target, "behavior.target", "target_critic.", "_task_behavior._target_critic."
    )
    uniform = golden["in/uniform_action"]
    noise = golden["in/gumbel"] if case == "gumbel" else torch.zeros(5, 1, 1, 1)
    start = State(*(x.flatten(0, 1) for x in state(golden, "in/start")))
    out = f"out/{case}"
    trajectory = world.imagine(lambda f, i: behavior.policy(f).sample(uniform[i]), start, 5, noise)
    close(trajectory.action, golden[f"{out}/seq/action"])
    close(trajectory.state.feat, golden[f"{out}/seq/feat"])
    reward = world.rewards(trajectory.state.feat)
    close(reward, golden[f"{out}/reward"])
    losses = behavior.losses(trajectory.state.feat, reward)
    close(losses.target, golden[f"{out}/target_seen_by_critic_loss"])
    close(losses.actor, golden[f"{out}/actor_loss"])
    close(losses.critic, golden[f"{out}/critic_loss"])
    policy = behavior.policy(trajectory.state.feat[:-2])
    close(policy.entropy(), golden[f"{out}/policy_entropy"])
    close(policy.mode(), golden[f"{out}/policy_mode"])


@pytest.mark.parametrize("kind", ["abs", "rel"])
def test_bonus(kind):
    golden = Golden("bonus")
    settings = json.loads(str(golden.arrays["settings/json"][()]))
    cfg = BonusConfig(
        beta=settings[f"beta_{kind}"], kind=kind, neighbours=settings["k"], queue=16, width=12
    )
    bonus = VideoBonus(cfg, 70).double()
    bonus.projection.copy_(golden["param/random_projection_matrix"])
    for i in range(4):
        out = f"out/{kind}/batch{i}"
        target = bonus(golden["in/feat"][i], golden["in/reward"][i])
        close(target, golden[f"{out}/reward"])
        close(bonus.norm.magnitude, golden[f"{out}/mag"])
        filled = len(golden[f"{out}/queue"])
        assert bonus.filled == filled
        close(bonus.queue[:filled], golden[f"{out}/queue"])


@pytest.mark.parametrize(
    "kind", ["plainresnet", "plainresnet_concat", "contextualized", "contextualized_concat"]
)
@pytest.mark.parametrize("explore", [False, True])
def test_acting(kind, explore):
    golden = Golden("policy")
    cfg = AgentConfig(
        world=StackedConfig(concat_embed="concat" in kind, head=HEAD),
        behavior=BehaviorConfig(actor=HEAD, critic=HEAD),
        bonus=BonusConfig(beta=0.0),
    )
    agent = Agent(model_config(context="context" in kind), cfg, 3).double().eval()
    world = agent.world
    prefix = f"{kind}/"
    golden.load(world.vision.encoder, "world.vision.encoder", prefix)
    golden.load(world.action_free, "world.action_free", prefix)
    golden.load(world.rssm, "world.rssm", prefix)
    golden.load(agent.behavior.actor, "behavior.actor", prefix, "_task_behavior.")
    out = f"out/{kind}/{'train' if explore else 'eval'}"
    carried = world.begin(2)
    for t in range(3):
        image, first = golden.image("in/image")[:, t], golden["in/is_first"][:, t]
        carried = world.filter(carried, image, first, MODE)
        policy = agent.behavior.policy(carried.post.feat)
        action = policy.sample(golden["in/uniform_action"][t]) if explore else policy.mode()
        close(action, golden[f"{out}/action"][:, t])
        carried = carried._replace(action=action)
    close(carried.post.deter, golden[f"{out}/deter"])
    close(carried.post.stoch, golden[f"{out}/stoch"])
    close(carried.free.deter, golden[f"{out}/af_deter"])
