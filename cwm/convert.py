"""Names of our parameters in the official code's state dicts: one flat table."""

import re

# Applied in order to a full name of ours; the last column is the official name.
NAMES = [
    (r"^world\.vision\.encoder\.resnet\.stem\.", "wm.encoder.convin."),
    (r"^world\.vision\.encoder\.resnet\.stages\.(\d)\.(\d)\.", r"wm.encoder.res\1.stack.\2."),
    (r"^world\.vision\.context\.resnet\.stem\.", "wm.encoder.cond_convin."),
    (r"^world\.vision\.context\.resnet\.stages\.(\d)\.(\d)\.", r"wm.encoder.cond_res\1.stack.\2."),
    (r"^world\.vision\.encoder\.convs\.(\d)\.", r"wm.encoder.conv\1."),
    (r"^world\.vision\.decoder\.linear\.", "wm.heads.decoder.convin."),
    (r"^world\.vision\.decoder\.stages\.(\d)\.(\d)\.", r"wm.heads.decoder.res\1.stack.\2."),
    (r"^world\.vision\.decoder\.attention\.8\.", "wm.heads.decoder.res0.stack.0."),
    (r"^world\.vision\.decoder\.attention\.16\.", "wm.heads.decoder.res1.stack.0."),
    (r"^world\.vision\.decoder\.convs\.(\d)\.", r"wm.heads.decoder.conv\1."),
    (r"^world\.vision\.decoder\.out\.", "wm.heads.decoder.convout."),
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
    (r"^world\.action_free\.", "wm.af_rssm."),
    (r"^world\.rssm\.", "wm.rssm."),
    (r"\.image_in\.", ".img_in."),
    (r"\.cell\.linear\.", "._cell._layer."),
    (r"\.cell\.norm\.", "._cell._norm."),
    (r"\.prior_hidden\.", ".img_out_0."),
    (r"\.prior_logit\.", ".img_dist_0."),
    (r"\.post_hidden\.", ".obs_out."),
    (r"\.post_logit\.", ".obs_dist."),
    (r"^world\.(reward|aux_reward)\.", r"wm.heads.\1."),
    (r"^behavior\.target\.", "_task_behavior._target_critic."),
    (r"^behavior\.(actor|critic)\.", r"_task_behavior.\1."),
    (r"\.hidden\.(\d)\.", r".dense\1."),
    (r"\.out\.0\.", ".out.out."),
    (r"\.out\.1\.", ".out.std."),
    (r"^bonus\.projection$", "wm.intr_bonus.random_projection_matrix"),
    (r"^bonus\.queue$", "wm.intr_bonus.queue"),
    (r"^bonus\.norm\.magnitude$", "wm.intr_bonus.intr_rewnorm.mag"),
]


def official_name(name: str) -> str:
    """The official code's name of a parameter or buffer of our agent."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name
