"""The authors' checkpoints to runs of ours, and our weights to files that their code loads."""

import logging
from pathlib import Path

from cwm import convert
from cwm.agent import Agent, AgentConfig
from cwm.infra.checkpoint import load_weights, save_weights
from cwm.infra.run_dir import RunDir
from cwm.world.action_free import ActionFreeConfig, ActionFreeModel
from cwm.world.vision import ModelConfig


def import_official(
    model: ModelConfig, world: ActionFreeConfig, agent: AgentConfig, folder: Path, run: RunDir
) -> None:
    """Publish the weights of an official checkpoint folder, a pre-trained model's or an agent's."""
    official = convert.read_official(folder)
    if convert.is_agent(official):
        kind, action_dim = "agent", official[convert.ACTION_BIAS].numel()
        expected = Agent(model, agent, action_dim).state_dict()
    else:
        kind, expected = "action-free", ActionFreeModel(model, world).state_dict()
    tensors, ignored = convert.from_official(official, expected, folder)
    if ignored:
        logging.info("ignored, as nothing in them is learned: %s", ", ".join(ignored))
    save_weights(run.folder, tensors, {"kind": kind, **run.spec.labels})
    run.publish("weights.safetensors", "weights.json")


def export_official(weights: Path, out: Path) -> None:
    """Write weights of ours as the official code would have written them."""
    tensors, _ = load_weights(weights)
    convert.write_official(out, convert.to_official(tensors))
