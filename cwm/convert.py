"""The authors' checkpoints and ours: one flat table of names, read in both directions.

Official pre-training leaves a folder of four `torch.save` files: `encoder_variables.pt`,
`decoder_variables.pt`, `rssm_variables.pt`, which fine-tuning loads, and the whole agent in
`variables.pt`. Fine-tuning and DreamerV2 leave `variables.pt` alone. Names below are those of the
whole agent.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cwm.infra.errors import UserError
from cwm.infra.files import atomic_write

# Applied in order to a name of ours, less a leading `world.`; the result is the official name.
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
# How far the bonus queue is filled is not in official files; the rows that are not zero tell.
FILLED = "bonus.filled"
# Only there. Behaviour is in an official agent twice, as what acts and as what explores.
BEHAVIOR, TWIN = "_task_behavior.", "_expl_behavior."
ACTION_BIAS = BEHAVIOR + "actor.out.out.bias"  # as long as an action
IGNORED = "wm.encoder.cond_aug."  # buffers of the context augmentation, which learns nothing

PARTS = {
    "encoder_variables.pt": "wm.encoder.",
    "decoder_variables.pt": "wm.heads.decoder.",
    "rssm_variables.pt": "wm.rssm.",
}
WHOLE = "variables.pt"


def official_name(name: str) -> str:
    """The official name of a parameter or buffer of our agent or of our action-free model."""
    name = name.removeprefix("world.")
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def is_agent(official: Mapping[str, Tensor]) -> bool:
    """Whether a whole official state dict is an agent's, not a pre-trained world model's."""
    return ACTION_BIAS in official


def to_official(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole official state dict of our agent's or action-free model's."""
    official = {official_name(n): x for n, x in ours.items() if n != FILLED}
    if is_agent(official):
        behavior = [key for key in official if key.startswith(BEHAVIOR)]
        official |= {TWIN + key.removeprefix(BEHAVIOR): official[key] for key in behavior}
    return official


def from_official(
    official: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Our state dict with an official one's values, and the official keys that were ignored.

    `expected` is the state dict of the model that the settings describe. Raises UserError naming
    the first key that is missing, unknown, or of another shape or type.
    """
    left, ours = dict(official), {}
    for name, own in expected.items():
        if name != FILLED:
            key = official_name(name)
            if key not in left:
                raise UserError(f"{source} lacks {key}: its model is not the one of the settings")
            ours[name] = left.pop(key)
            _check(ours[name], own, f"{source}: {key}")
    for key in [key for key in left if key.startswith(TWIN)]:
        original = official.get(BEHAVIOR + key.removeprefix(TWIN))
        if original is None or not _same(left.pop(key), original):
            raise UserError(f"{source}: {key} is not what {BEHAVIOR} has; only one can be taken")
    ignored = [key for key in left if key.startswith(IGNORED)]
    if unknown := sorted(left.keys() - set(ignored)):
        raise UserError(f"{source}: {unknown[0]} has no place in the model of the settings")
    if FILLED in expected:
        ours[FILLED] = ours["bonus.queue"].any(-1).sum()
    return ours, ignored


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _check(tensor: Tensor, own: Tensor, what: str) -> None:
    if tensor.shape != own.shape:
        raise UserError(f"{what} is {tuple(tensor.shape)}, in the settings' {tuple(own.shape)}")
    if tensor.dtype != own.dtype:
        raise UserError(f"{what} is {tensor.dtype}, not {own.dtype}")


def official_files(folder: Path) -> dict[str, Path]:
    """The files of a checkpoint folder by name: its three parts, `variables.pt`, or all four."""
    found = {name: folder / name for name in (*PARTS, WHOLE) if (folder / name).is_file()}
    if WHOLE not in found and (missing := [name for name in PARTS if name not in found]):
        raise UserError(f"{folder} has neither {WHOLE} nor {', '.join(missing)}")
    return found


def read_official(folder: Path) -> dict[str, Tensor]:
    """The whole official state dict of a folder; where it is there twice, the two must agree."""
    states = {name: read_state(path) for name, path in official_files(folder).items()}
    whole = states.pop(WHOLE, {})
    parts = {PARTS[name] + key: x for name, state in states.items() for key, x in state.items()}
    for key, x in parts.items() if whole else ():
        if key not in whole or not _same(whole[key], x):
            raise UserError(f"{folder}: {key} is another one in {WHOLE}; these are two models")
    return whole or parts


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of one `torch.save` file, which is not trusted."""
    try:
        # mmap: a tensor that claims more than the file has is refused, not read from elsewhere.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of any kind: damaged bytes take an unpickler anywhere
        named = re.search(r"GLOBAL (\S+)", str(error))
        kind = type(error).__name__
        why = f"holds {named[1]}, which could run code" if named else f"is damaged ({kind})"
        raise UserError(f"{path} {why}; it must be a whole file of `torch.save`") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; it must be a state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: {key!r} is a {type(value).__name__}; it must be a tensor")
        if value.layout != torch.strided or value.device.type != "cpu":
            raise UserError(f"{path}: {key} is a {value.layout} tensor on {value.device}")
        if value.nbytes > value.untyped_storage().nbytes():
            raise UserError(f"{path}: {key} claims more entries than the file has")
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{path}: {key} has entries that are not finite: training broke down")
    return dict(content)


def write_official(folder: Path, official: Mapping[str, Tensor]) -> None:
    """Write the files that the official code would: an agent is one, a pre-trained model four."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {WHOLE: dict(official)}
    for name, prefix in {} if is_agent(official) else PARTS.items():
        items = official.items()
        contents[name] = {k.removeprefix(prefix): x for k, x in items if k.startswith(prefix)}
    for name, content in contents.items():
        with atomic_write(folder / name) as temporary:
            torch.save(content, temporary)
