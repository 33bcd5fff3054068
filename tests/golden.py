"""Golden arrays of the official code: loading, naming, comparing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cwm.convert import official_name
from cwm.data.batch import Batch
from cwm.nn.blocks import MLPConfig
from cwm.nn.context import ContextConfig
from cwm.nn.encoder import VisionConfig
from cwm.nn.rssm import RSSMConfig, State
from cwm.world.vision import Draws, ModelConfig

FOLDER = Path(__file__).parents[2] / "shared" / "golden"
OURS_ALONE = ("bonus.filled", "bonus.reward_scale.magnitude")


class Golden:
    """One file of golden arrays, as float64 tensors."""

    def __init__(self, name: str) -> None:
        self.arrays = np.load(FOLDER / f"{name}.npz")

    def __getitem__(self, name: str) -> Tensor:
        array = np.asarray(self.arrays[name])
        tensor = torch.as_tensor(array)
        return tensor.double() if tensor.is_floating_point() else tensor

    def names(self, prefix: str) -> list[str]:
        return [name for name in self.arrays.files if name.startswith(prefix)]

    def image(self, name: str) -> Tensor:
        """Channels last, as our models read images."""
        return self[name].movedim(-3, -1)

    def load(self, module: nn.Module, ours: str, prefix: str = "", theirs: str = "") -> None:
        """Fill `module`, which our agent calls `ours`, from `param/`; every entry must be there.

        `prefix` replaces `theirs` at the beginning of the official names of a single-module file.
        """
        state = {}
        for name, value in module.state_dict().items():
            official = official_name(f"{ours}.{name}" if ours else name)
            key = "param/" + prefix + official.removeprefix(theirs)
            if name.endswith(OURS_ALONE) or name.endswith("num_batches_tracked"):
                state[name] = value
            else:
                state[name] = self[key].reshape(value.shape).to(value.dtype)
        module.load_state_dict(state)


def close(ours: Tensor, golden: Tensor, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the golden array's own size, entry by entry."""
    ours, golden = ours.detach().double(), golden.double()
    assert ours.shape == golden.shape
    size = golden.square().mean().sqrt().clamp(min=1e-6)
    worst = ((ours - golden).abs().max() / size).item()
    assert worst < tolerance, f"differs by {worst:.2g} of the golden array's rms"


RSSM = RSSMConfig(deter=40, stoch=6, classes=5, hidden=24, action_pad=7)
HEAD = MLPConfig(layers=4, units=20)
MODE = torch.zeros(())  # Gumbel noise of zero: every latent is its mode


def model_config(context: bool, network: str = "resnet") -> ModelConfig:
    """The golden sizes; without dropout, as the arrays were made."""
    return ModelConfig(
        vision=VisionConfig(network=network, depth=8),
        context=ContextConfig(dropout=0.0) if context else None,
        rssm=RSSM if network == "resnet" else replace(RSSM, action_pad=0),
        stacked=network == "resnet",
    )


def state(golden: Golden, name: str) -> State:
    return State(*(golden[f"{name}/{part}"] for part in ("deter", "stoch", "logit")))


def keep(golden: Golden, name: str, suffix: str = "") -> dict[int, Tensor] | None:
    if f"{name}/keep_res0{suffix}" not in golden.arrays.files:
        return None
    return {size: golden[f"{name}/keep_res{i}{suffix}"].long() for i, size in enumerate((8, 16))}


def draws(golden: Golden, i: int) -> Draws:
    """The random choices of batch i."""
    kept = keep(golden, f"in/batch{i}")
    index = golden[f"in/batch{i}/context_index"].long() if kept else None
    return Draws(index, kept, MODE, MODE)


def batch(golden: Golden, i: int) -> Batch:
    name = f"in/batch{i}"
    image, is_first = golden.image(f"{name}/image"), golden[f"{name}/is_first"]
    if f"{name}/action" not in golden.arrays.files:
        return Batch(image, is_first)
    return Batch(image, is_first, golden[f"{name}/action"], golden[f"{name}/reward"])
