"""Convert checkpoints between the official code's format and ours, by one table of names.

Official pre-training writes a folder of four `torch.save` files: `encoder_variables.pt`,
`decoder_variables.pt` and `rssm_variables.pt`, which fine-tuning loads, and the whole agent in
`variables.pt`. Fine-tuning and DreamerV2 write `variables.pt` alone. Official names below are
those of the whole agent.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cwm.agent import Agent
from cwm.infra.checkpoint import load_weights, save_weights
from cwm.infra.errors import UserError
from cwm.infra.files import atomic_write
from cwm.infra.run_dir import RunDir
from cwm.settings import ActionFreeConfig, AgentConfig, ModelConfig
from cwm.world.action_free import ActionFreeModel

# Regular expressions applied in order to a name of ours without its leading `world.`.
NAMES = [
    (r"^vision\.encoder\.resnet\.stem\.", "wm.encoder.convin."),
    (r"^vision\.encoder\.resnet\.stages\.(\d)\.(\d)\.", r"wm.encoder.res\1.stack.\2."),
    (r"^vision\.context\.resnet\.stem\.", "wm.encoder.cond_convin."),
    (r"^vision\.context\.resnet\.stages\.(\d)\.(\d)\.", r"wm.encoder.cond_res\1.stack.\2."),
    (r"^vision\.encoder\.convs\.(\d)\.", r"wm.encoder.conv\1."),
    (r"^vision\.decoder\.linear\.", "wm.heads.decoder.convin."),
    (r"^vision\.decoder\.stages\.(\d)\.(\d)\.", r"wm.heads.decoder.res\1.stack.\2."),
    (r"^vision\.decoder\.attention\.8\.", "wm.heads.decoder.res0.stack.0."),
    (r"^vision\.decoder\.attention\.16\.", "wm.heads.decoder.res1.stack.0."),
    (r"^vision\.decoder\.convs\.(\d)\.", r"wm.heads.decoder.conv\1."),
    (r"^vision\.decoder\.out\.", "wm.heads.decoder.convout."),
    (r"(stack\.\d)\.conv1\.", r"\1.res_block.0."),
    (r"(stack\.\d)\.norm1\.", r"\1.res_block.1."),
    (r"(stack\.\d)\.conv2\.", r"\1.res_block.3."),
    (r"(stack\.\d)\.norm2\.", r"\1.res_block.4."),
    (r"(stack\.\d)\.widen\.", r"\1.identity.0."),
    (r"(stack\.\d)\.widen_norm\.", r"\1.identity.1."),
    (r"\.query_position$", ".q_pos_emb"),
    (r"\.context_position$", ".kv_pos_emb"),
    (r"\.project_in\.", ".cross_attention.att.in_proj_"),
    (r"\.project_out\.", ".cross_attention.att.out_proj."),
    (r"(stack\.0)\.norm\.", r"\1.norm_cross_att."),
    (r"^action_free\.", "wm.af_rssm."),
    (r"^rssm\.", "wm.rssm."),
    (r"\.image_in\.", ".img_in."),
    (r"\.cell\.linear\.", "._cell._layer."),
    (r"\.cell\.norm\.", "._cell._norm."),
    (r"\.prior_hidden\.", ".img_out_0."),
    (r"\.prior_logit\.", ".img_dist_0."),
    (r"\.post_hidden\.", ".obs_out."),
    (r"\.post_logit\.", ".obs_dist."),
    (r"^(reward|aux_reward)\.", r"wm.heads.\1."),
    (r"^behavior\.target\.", "_task_behavior._target_critic."),
    (r"^behavior\.(actor|critic)\.", r"_task_behavior.\1."),
    (r"^behavior\.reward_norm\.magnitude$", "_task_behavior.rewnorm.mag"),
    (r"\.hidden\.(\d)\.", r".dense\1."),
    (r"\.out\.0\.", ".out.out."),
    (r"\.out\.1\.", ".out.std."),
    (r"^bonus\.projection$", "wm.intr_bonus.random_projection_matrix"),
    (r"^bonus\.queue$", "wm.intr_bonus.queue"),
    (r"^bonus\.norm\.magnitude$", "wm.intr_bonus.intr_rewnorm.mag"),
    (r"^bonus\.reward_scale\.magnitude$", "wm.intr_bonus.plain_rewnorm.mag"),
]
# Official files lack this counter; the number of non-zero rows of the bonus queue gives it.
FILLED = "bonus.filled"
# An official agent has two equal copies of its behaviour: for acting and for exploring.
BEHAVIOR, TWIN = "_task_behavior.", "_expl_behavior."
ACTION_BIAS = BEHAVIOR + "actor.out.out.bias"  # (action_dim,)
IGNORED = "wm.encoder.cond_aug."  # buffers of the context augmentation, which has no parameters

PARTS = {
    "encoder_variables.pt": "wm.encoder.",
    "decoder_variables.pt": "wm.heads.decoder.",
    "rssm_variables.pt": "wm.rssm.",
}
WHOLE = "variables.pt"


def import_official(
    model: ModelConfig, world: ActionFreeConfig, agent: AgentConfig, folder: Path, run: RunDir
) -> None:
    """Publish the weights of an official checkpoint folder as a run.

    The folder holds a pre-trained world model or an agent. Raises UserError naming the first key
    that does not fit the model of the settings.
    """
    official = read_official(folder)
    if is_agent(official):
        kind, action_dim = "agent", official[ACTION_BIAS].numel()
        expected = Agent(model, agent, action_dim).state_dict()
    else:
        kind, expected = "action-free", ActionFreeModel(model, world).state_dict()
    tensors, ignored = from_official(official, expected, folder)
    if ignored:
        logging.info("ignored, as they hold nothing learned: %s", ", ".join(ignored))
    save_weights(run.folder, tensors, {"kind": kind, **run.spec.labels})
    run.publish("weights.safetensors", "weights.json")


def export_official(weights: Path, out: Path) -> None:
    """Write the weights of a `weights.json` as official files: one for an agent, else four."""
    tensors, _ = load_weights(weights)
    official = to_official(tensors)
    out.mkdir(parents=True, exist_ok=True)
    for name, prefix in {WHOLE: "", **({} if is_agent(official) else PARTS)}.items():
        own = {k.removeprefix(prefix): x for k, x in official.items() if k.startswith(prefix)}
        with atomic_write(out / name) as temporary:
            torch.save(own, temporary)


def official_name(name: str) -> str:
    """Translate the name of a parameter or buffer of our agent or action-free model."""
    name = name.removeprefix("world.")
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def is_agent(official: Mapping[str, Tensor]) -> bool:
    """Whether an official state dict holds an agent rather than a pre-trained world model."""
    return ACTION_BIAS in official


def to_official(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our agent or action-free model to the official one."""
    official = {official_name(n): x for n, x in ours.items() if n != FILLED}
    if is_agent(official):
        behavior = [key for key in official if key.startswith(BEHAVIOR)]
        official |= {TWIN + key.removeprefix(BEHAVIOR): official[key] for key in behavior}
    return official


def from_official(
    official: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Convert an official state dict to ours; also returns the official keys that were ignored.

    `expected` is the state dict of the model that the settings describe. Raises UserError naming
    the first key that is missing, unknown, or of another shape or type.
    """
    left, ours = dict(official), {}
    for name, own in expected.items():
        if name != FILLED:
            key = official_name(name)
            if key not in left:
                raise UserError(f"{source} lacks {key}, which the model of the settings has")
            tensor = ours[name] = left.pop(key)
            if (has := _form(tensor)) != (needed := _form(own)):
                raise UserError(f"{source}: {key} is {has}; the settings need {needed}")
    for key in [key for key in left if key.startswith(TWIN)]:
        original = official.get(BEHAVIOR + key.removeprefix(TWIN))
        if original is None or not _same(left.pop(key), original):
            raise UserError(f"{source}: {key} differs from its copy in {BEHAVIOR}")
    ignored = [key for key in left if key.startswith(IGNORED)]
    if unknown := sorted(left.keys() - set(ignored)):
        raise UserError(f"{source}: {unknown[0]} is not in the model of the settings")
    if FILLED in expected:
        ours[FILLED] = ours["bonus.queue"].any(-1).sum()
    return ours, ignored


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def official_files(folder: Path) -> dict[str, Path]:
    """Find the files of an official folder: the three parts, `variables.pt`, or all four."""
    found = {name: folder / name for name in (*PARTS, WHOLE) if (folder / name).is_file()}
    if WHOLE not in found and (missing := [name for name in PARTS if name not in found]):
        raise UserError(f"{folder} has neither {WHOLE} nor {', '.join(missing)}")
    return found


def read_official(folder: Path) -> dict[str, Tensor]:
    """Read the state dict of an official folder; the parts and `variables.pt` must agree."""
    states = {name: read_state(path) for name, path in official_files(folder).items()}
    whole = states.pop(WHOLE, {})
    parts = {PARTS[name] + key: x for name, state in states.items() for key, x in state.items()}
    for key, x in parts.items():
        if whole and (key not in whole or not _same(whole[key], x)):
            raise UserError(f"{folder}: {key} differs from {WHOLE}: the files are of two models")
    return whole or parts


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of one `torch.save` file without running code that it may hold."""
    try:
        # mmap: a tensor larger than the file is an error, not a read beyond the file.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damaged bytes can make the unpickler raise any exception
        named = re.search(r"GLOBAL (\S+)", str(error))
        kind = type(error).__name__
        why = f"holds {named[1]}, which could run code" if named else f"is damaged ({kind})"
        raise UserError(f"{path} {why}; it must be a complete file of `torch.save`") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; it must be a state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: {key!r} is a {type(value).__name__}; it must be a tensor")
        if value.layout != torch.strided or value.device.type != "cpu":
            form = f"{value.layout} tensor on {value.device}"
            raise UserError(f"{path}: {key} is a {form}; it must be dense and on the CPU")
        if value.nbytes > value.untyped_storage().nbytes():
            raise UserError(f"{path}: {key} claims more values than the file has")
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{path}: {key} has values that are not finite: training diverged")
    return dict(content)
