"""Figures of the official code: reading and comparing them, and the weights they were made from.

`reference/compact.py` makes the files that are read here; `reference/data/README.md` describes
them.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

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

DATA = Path(__file__).parent / "reference" / "data"
ENTRIES = 512  # kept of a recorded array
OURS_ALONE = ("bonus.filled", "bonus.reward_scale.magnitude", "num_batches_tracked")


def bits(name: str) -> np.random.PCG64:
    """Random bits that belong to a name."""
    return np.random.PCG64(int.from_bytes(sha256(f"0:{name}".encode()).digest()[:8], "little"))


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight that the official code was given under this name; counters and queues are zero."""
    z = np.random.Generator(bits(name)).standard_normal(shape)
    match name.rpartition(".")[2]:
        case "num_batches_tracked" | "queue":
            return np.zeros(shape, np.float32)
        case "mag":
            return np.ones(shape, np.float32)
        case "q_pos_emb" | "kv_pos_emb":
            z = 0.2 * z
        case "random_projection_matrix":
            z = z / shape[1]
        case _ if len(shape) > 1:
            z = z / math.sqrt(math.prod(shape[1:]))
        case "weight":
            z = 1 + 0.1 * z
        case "running_var":
            z = 1 + 0.2 * np.abs(z)
        case _:
            z = 0.1 * z
    return z.astype(np.float32)


def sampled(name: str, size: int) -> np.ndarray:
    """The entries kept of a recorded array; the same in every version of NumPy."""
    return np.sort(bits(name).random_raw(size).argsort(kind="stable")[:ENTRIES])


class Recorded(NamedTuple):
    """What is kept of an array of the official code."""

    shape: tuple[int, ...]
    norm: float
    index: Tensor  # entries of the flattened array
    entries: Tensor


class Golden:
    """One file: inputs are read as tensors (float64), results as `Recorded`.

    A test ends by asserting that it left nothing of its part `unread`.
    """

    def __init__(self, name: str) -> None:
        with np.load(DATA / f"{name}.npz") as file:
            self.arrays = dict(file)
        table = json.loads(str(self.arrays["table"]))
        self.weights = table["param"]  # official name -> name in the rule, shape
        self.recorded = table["recorded"]  # name -> shape, norm, first of its entries
        self.settings: dict[str, Any] = json.loads(str(self.arrays.get("settings/json", "{}")))
        self.left = set(self.recorded)

    def __getitem__(self, name: str) -> Recorded:
        shape, norm, first = self.recorded[name]
        self.left.discard(name)
        index = sampled(name, math.prod(shape))
        entries = self.arrays["entries"][first : first + len(index)]
        return Recorded(tuple(shape), norm, torch.as_tensor(index), torch.as_tensor(entries))

    def input(self, name: str) -> Tensor:
        tensor = torch.as_tensor(self.arrays[f"in/{name}"])
        return tensor.double() if tensor.is_floating_point() else tensor

    def image(self, name: str) -> Tensor:
        """Channels last, as our models read images."""
        return self.input(name).movedim(-3, -1)

    def unread(self, *beginnings: str) -> set[str]:
        """The recorded arrays that nothing was compared with, of those whose names begin so."""
        return {name for name in self.left if name.startswith(beginnings or "")}

    def weight(self, name: str) -> Tensor:
        rule, shape = self.weights[name]
        return torch.as_tensor(weight(rule, tuple(shape))).double()

    def load(self, module: nn.Module, ours: str, prefix: str = "", theirs: str = "") -> None:
        """Fill `module`, which our agent calls `ours`; every weight must be there.

        `prefix` replaces `theirs` at the beginning of the official names of a single-module file.
        """
        state = module.state_dict()
        for name, value in state.items():
            official = official_name(f"{ours}.{name}" if ours else name)
            if not name.endswith(OURS_ALONE):
                golden = self.weight(prefix + official.removeprefix(theirs))
                state[name] = golden.to(value.dtype)
        module.load_state_dict(state)


def close(ours: Tensor | float, golden: Recorded, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the array's own rms, in each kept entry and in the norm of all."""
    ours = torch.as_tensor(ours).detach().double()
    assert ours.shape == golden.shape
    count = math.sqrt(ours.numel())
    norm = (ours.norm() - golden.norm).abs() / count
    entries = (ours.flatten()[golden.index] - golden.entries).abs().max()
    worst = (torch.maximum(norm, entries) / max(golden.norm / count, 1e-6)).item()
    assert worst < tolerance, f"differs by {worst:.2g} of the recorded array's rms"


def close_state(ours: State, golden: Golden, name: str, tolerance: float = 1e-5) -> None:
    for part in ours._fields:
        close(getattr(ours, part), golden[f"{name}/{part}"], tolerance)


def close_gradients(
    golden: Golden, module: nn.Module, ours: str, theirs: str = "", kind: str = "grad"
) -> None:
    """The gradients that `module`, which our agent calls `ours`, holds, and their norms."""
    for name, parameter in module.named_parameters(prefix=ours):
        official = official_name(name).removeprefix(theirs)
        close(parameter.grad, golden[f"{kind}/{official}"])
        close(parameter.grad.norm(), golden[f"{kind}_norm/{official}"])


def close_statistics(golden: Golden, module: nn.Module, ours: str, theirs: str) -> None:
    """The running statistics of batch norms after a forward pass in training."""
    for name, buffer in module.named_buffers(prefix=ours):
        if "running" in name:
            close(buffer, golden["after/" + official_name(name).removeprefix(theirs)])


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Of all gradients together."""
    return torch.stack([p.grad.norm() for p in parameters]).norm()


def margin(*scores: Tensor) -> Tensor:
    """The smallest gap between the best and the second score over the last axes."""
    gaps = [x.topk(2, -1)[0].diff(dim=-1).abs().min() for x in scores]
    return torch.stack(gaps).min()


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
    return State(*(golden.input(f"{name}/{part}") for part in ("deter", "stoch", "logit")))


def keep(golden: Golden, name: str = "", suffix: str = "") -> dict[int, Tensor] | None:
    if f"in/{name}keep_res0{suffix}" not in golden.arrays:
        return None
    return {size: golden.input(f"{name}keep_res{i}{suffix}") for i, size in enumerate((8, 16))}


def draws(golden: Golden, i: int) -> Draws:
    """The random choices of batch i."""
    kept = keep(golden, f"batch{i}/")
    index = golden.input(f"batch{i}/context_index") if kept else None
    return Draws(index, kept, MODE, MODE)


def batch(golden: Golden, i: int) -> Batch:
    name = f"batch{i}"
    image, is_first = golden.image(f"{name}/image"), golden.input(f"{name}/is_first")
    if f"in/{name}/action" not in golden.arrays:
        return Batch(image, is_first)
    return Batch(image, is_first, golden.input(f"{name}/action"), golden.input(f"{name}/reward"))
