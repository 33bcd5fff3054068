"""Golden arrays recorded from the official code: reading, comparing, and rebuilding the weights.

`reference/compact.py` writes the files; `reference/data/README.md` describes them.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cwm.behavior.actor_critic import TruncatedNormal
from cwm.convert import FILLED, official_name
from cwm.nn import checkpointing
from cwm.nn.batch import Batch, ClipBatch
from cwm.nn.rssm import State
from cwm.settings import (
    BehaviorConfig,
    ContextConfig,
    MLPConfig,
    ModelConfig,
    RSSMConfig,
    VisionConfig,
)
from cwm.train.compiled import compile_regions
from cwm.world.vision import RandomInputs

COMPILED = "COMPILED" in os.environ  # test compiled regions too; float64 only, takes minutes
DATA = Path(os.environ.get("GOLDEN", Path(__file__).parent / "reference" / "data"))
ENTRIES = 512  # entries kept of each recorded array
# Tolerance in float32: SPREADS times the official code's own float32 error, but at least a few
# roundings for an array and many roundings for a single number (a sum).
SPREADS, ROUNDINGS, MANY_ROUNDINGS = 10, 1e-6, 1e-4
# Compared in float64 only. The exact gradient is zero: softmax ignores the bias of its keys, and a
# batch norm ignores a bias before it. Adam turns the rounding error into steps of full size.
NOISE = ("att.in_proj_bias", "att.out_proj.bias")


class Decisions(TorchFunctionMode):
    """Record which ReLUs are active and which classes argmax chooses, to repeat these decisions.

    In float32, rounding can flip a decision whose input is nearly zero, which changes gradients by
    percents. With the decisions of the float64 pass, the difference is rounding error only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Tensor] = []
        self.again: Iterator[Tensor] | None = None

    def repeat(self) -> "Decisions":
        self.again = iter(self.made)
        return self

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in (F.relu, Tensor.argmax):
            return func(*args, **(kwargs or {}))
        if self.again is None:
            self.made.append(args[0] > 0 if func is F.relu else func(*args, **(kwargs or {})))
            return func(*args, **(kwargs or {}))
        decided = next(self.again)
        return args[0] * decided if func is F.relu else decided


class Numbers:
    """The precision of a test, and the errors that it found."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.errors: dict[str, float] = {}  # array -> largest error / tolerance

    def cast(self, module: nn.Module) -> nn.Module:
        module = module.double() if self.dtype == torch.float64 else module
        if COMPILED:
            compile_regions(module)
        return module


def in_float64_and_float32(test: Callable) -> Callable:
    """Run a test in float64, and in float32 with the decisions of float64."""

    @pytest.mark.parametrize("numbers", ["float64", "float32"])
    @functools.wraps(test)
    def run(*args: Any, numbers: str, **case: Any) -> None:
        if numbers == "float64":
            with patch.object(checkpointing, "LARGE", 0):  # checkpoint small tensors too
                test(*args, numbers=Numbers(torch.float64), **case)
            return
        single = Numbers(torch.float32)
        with Decisions() as decisions:
            test(*args, numbers=Numbers(torch.float64), **case)
        with decisions.repeat():
            test(*args, numbers=single, **case)
        far = {name: round(x, 2) for name, x in single.errors.items() if x > 1}
        assert not far, f"in tolerances: {far}"

    return run


def bits(name: str, seed: int = 0) -> np.random.PCG64:
    """A bit generator seeded by a name."""
    digest = sha256(f"{seed}:{name}".encode()).digest()
    return np.random.PCG64(int.from_bytes(digest[:8], "little"))


def weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The weight of this name in the recorded runs of the official code."""
    z = np.random.Generator(bits(name, seed)).standard_normal(shape)
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
    """Indices of the entries kept of a recorded array, the same in every NumPy version."""
    return np.sort(bits(name).random_raw(size).argsort(kind="stable")[:ENTRIES])


class Recorded(NamedTuple):
    """The stored part of an array of the official code."""

    name: str
    shape: tuple[int, ...]
    norm: float
    index: Tensor  # entries of the flattened array
    entries: Tensor
    tolerance: float
    numbers: Numbers


class Golden:
    """One golden file: inputs are tensors, results are `Recorded`.

    A test asserts at its end that it compared every array (`unread`).
    """

    def __init__(self, name: str, numbers: Numbers) -> None:
        self.numbers = numbers
        with np.load(DATA / f"{name}.npz") as file:
            self.arrays = dict(file)
        table = json.loads(str(self.arrays["table"]))
        self.weights = table["param"]  # official name -> name in the rule, shape
        self.recorded = table["recorded"]  # name -> shape, norm, first entry, spread, half
        self.settings: dict[str, Any] = json.loads(str(self.arrays.get("settings/json", "{}")))
        self.left = set(self.recorded)

    def __getitem__(self, name: str) -> Recorded:
        shape, norm, first, spread, half = self.recorded[name]
        self.left.discard(name)
        index = sampled(name, math.prod(shape))
        entries = self.arrays["entries"][first : first + len(index)]
        tolerance = 1e-3 if half else 1e-5
        if self.numbers.dtype == torch.float32:
            roundings = ROUNDINGS if math.prod(shape) > 1 else MANY_ROUNDINGS
            tolerance = max(SPREADS * spread, tolerance if half else roundings)
            tolerance = math.inf if name.endswith(NOISE) else tolerance
        index, entries = torch.as_tensor(index), torch.as_tensor(entries)
        return Recorded(name, tuple(shape), norm, index, entries, tolerance, self.numbers)

    def input(self, name: str) -> Tensor:
        tensor = torch.as_tensor(self.arrays[f"in/{name}"])
        return tensor.to(self.numbers.dtype) if tensor.is_floating_point() else tensor

    def image(self, name: str) -> Tensor:
        """An input image with channels last, as our models expect."""
        return self.input(name).movedim(-3, -1)

    def unread(self, *beginnings: str) -> set[str]:
        """Names of recorded arrays that no test has compared, optionally by prefix."""
        return {name for name in self.left if name.startswith(beginnings or "")}

    def weight(self, name: str) -> Tensor:
        rule, shape = self.weights[name]
        return torch.as_tensor(weight(rule, tuple(shape), ABOUT["seed"]))

    def load(self, module: nn.Module, ours: str, prefix: str = "", theirs: str = "") -> None:
        """Load the golden weights of `module`, called `ours` in our agent; none may be missing.

        In files of a single module, `prefix` replaces the beginning `theirs` of official names.
        """
        state = module.state_dict()
        for name, value in state.items():
            official = official_name(f"{ours}.{name}" if ours else name)
            if name != FILLED:
                golden = self.weight(prefix + official.removeprefix(theirs))
                state[name] = golden.to(value.dtype)
        module.load_state_dict(state)


def close(ours: Tensor | float, golden: Recorded, smallest: float = 1e-6) -> None:
    """Compare the kept entries and the norm, relative to the array's rms (at least `smallest`)."""
    ours = torch.as_tensor(ours).detach().double()
    assert ours.shape == golden.shape
    count = math.sqrt(ours.numel())
    norm = (ours.norm() - golden.norm).abs() / count
    entries = (ours.flatten()[golden.index] - golden.entries).abs().max()
    error = (torch.maximum(norm, entries) / max(golden.norm / count, smallest)).item()
    errors, name = golden.numbers.errors, golden.name
    errors[name] = max(errors.get(name, 0.0), error / golden.tolerance)
    if golden.numbers.dtype == torch.float64:
        assert errors[name] <= 1, f"{name} differs by {error:.2g} of the recorded rms"


def close_state(ours: State, golden: Golden, name: str) -> None:
    for part in ours._fields:
        close(getattr(ours, part), golden[f"{name}/{part}"])


def close_gradients(
    golden: Golden, module: nn.Module, ours: str, theirs: str = "", kind: str = "grad"
) -> None:
    """Compare the gradients of `module`, called `ours` in our agent, and their norms."""
    # Gradients that are zero up to rounding are compared relative to the norm of all gradients.
    smallest = max(1e-6, 1e-9 * gradient_norm(module.parameters()).item())
    for name, parameter in module.named_parameters(prefix=ours):
        official = official_name(name).removeprefix(theirs)
        close(parameter.grad, golden[f"{kind}/{official}"], smallest)
        close(parameter.grad.norm(), golden[f"{kind}_norm/{official}"], smallest)


def close_statistics(golden: Golden, module: nn.Module, ours: str, theirs: str) -> None:
    """Compare the running statistics of batch norms after a forward pass in training mode."""
    for name, buffer in module.named_buffers(prefix=ours):
        if "running" in name:
            close(buffer, golden["after/" + official_name(name).removeprefix(theirs)])


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Norm of all gradients together."""
    return torch.stack([p.grad.norm() for p in parameters]).norm()


def margin(*scores: Tensor) -> Tensor:
    """The smallest difference of the two highest scores along the last axis."""
    gaps = [x.topk(2, -1)[0].diff(dim=-1).abs().min() for x in scores]
    return torch.stack(gaps).min()


ABOUT: dict[str, int] = json.loads((DATA / "about.json").read_text())


def sizes(*names: str) -> dict[str, int]:
    """Sizes used in the recordings."""
    return {name: ABOUT[name] for name in names}


RSSM = RSSMConfig(**sizes("deter", "stoch", "classes", "hidden", "action_pad"))
HEAD = MLPConfig(**sizes("layers", "units"))
BEHAVIOR = BehaviorConfig(actor=HEAD, critic=HEAD, horizon=ABOUT["horizon"])
MODE = torch.zeros(())  # Gumbel noise of zero: every latent is its mode


def model_config(context: bool, network: str = "resnet") -> ModelConfig:
    """The model of the recordings, without dropout."""
    return ModelConfig(
        vision=VisionConfig(network=network, depth=ABOUT["depth"]),
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


def random_inputs(golden: Golden, i: int) -> RandomInputs:
    """The recorded random inputs of batch i."""
    kept = keep(golden, f"batch{i}/")
    index = golden.input(f"batch{i}/context_index") if kept else None
    return RandomInputs(index, kept, MODE, MODE)


def batch(golden: Golden, i: int) -> Batch | ClipBatch:
    name = f"batch{i}"
    image, is_first = golden.image(f"{name}/image"), golden.input(f"{name}/is_first")
    if f"in/{name}/action" not in golden.arrays:
        return ClipBatch(image, is_first)
    return Batch(image, is_first, golden.input(f"{name}/action"), golden.input(f"{name}/reward"))


# Quantities that the official code records and ours does not compute.


def categorical_log_prob(logits: Tensor, one_hot: Tensor) -> Tensor:
    """Of one-hot values (..., S, K), summed over the S variables, as (...)."""
    return (logits.log_softmax(-1) * one_hot).sum((-2, -1))


def truncated_normal_mean(policy: TruncatedNormal) -> Tensor:
    """Mean (..., A) of a normal truncated to [-1, 1]."""
    normal = torch.distributions.Normal(policy.loc, policy.scale)
    low, high = policy.loc.new_tensor(-1.0), policy.loc.new_tensor(1.0)
    slope = normal.log_prob(low).exp() - normal.log_prob(high).exp()
    return policy.loc + policy.scale**2 * slope / (normal.cdf(high) - normal.cdf(low))


def truncated_normal_log_prob(policy: TruncatedNormal, action: Tensor) -> Tensor:
    """Log-density of actions (..., A) in [-1, 1], summed over the action, (...)."""
    normal = torch.distributions.Normal(policy.loc, policy.scale)
    mass = normal.cdf(policy.loc.new_tensor(1.0)) - normal.cdf(policy.loc.new_tensor(-1.0))
    return (normal.log_prob(action) - mass.log()).sum(-1)
