"""Start a world model with actions from trained weights."""

from pathlib import Path

from cwm.infra.checkpoint import load_parts, load_weights
from cwm.infra.errors import UserError
from cwm.world.stacked import StackedModel


def load_pretrained(world: StackedModel, path: Path) -> None:
    """Load a weights.json of `cwm pretrain`, or of `cwm adapt`, which also has the upper model.

    Raises UserError if the weights do not fit the model.
    """
    tensors, about = load_weights(path)
    match about.get("kind"):
        case "action-free":
            if world.action_free is None:
                raise UserError(f"model.stacked is false, but {path} is for a stacked model")
            load_parts({"vision": world.vision, "rssm": world.action_free}, tensors, path)
        case "action-conditional":
            if (size := about.get("action_size")) != world.action_dim:
                needed = f"actions of {world.action_dim} values are needed"
                raise UserError(f"{path} is for actions of {size} values; {needed}")
            load_parts({"world": world}, tensors, path)
        case kind:
            raise UserError(f"{path} holds a {kind} model; pass pre-trained weights")
