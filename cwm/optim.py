"""Adam with a global-norm clip: one object and one call per loss."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OptimizerConfig:
    """Adam; reference `core/torch_utils.py`."""

    lr: float = 3e-4
    eps: float = 1e-5
    clip: float = 100.0  # of the norm of all gradients together, before weight decay
    weight_decay: float = 1e-6  # added to the gradient (coupled), for every parameter


class Optimizer:
    """Clips the gradients of a fixed list of parameters together, then takes an Adam step."""

    def __init__(self, cfg: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> None:
        self.cfg = cfg
        self.parameters = list(parameters)
        self.adam = torch.optim.Adam(
            self.parameters, lr=cfg.lr, eps=cfg.eps, weight_decay=cfg.weight_decay, fused=True
        )

    def step(self, gradients: Sequence[Tensor], frozen: bool = False) -> Tensor:
        """Take a step and return the gradients' norm before clipping.

        While `frozen` the rate is zero, but Adam's moments go on gathering, as in the reference.
        """
        norm = torch.nn.utils.get_total_norm(gradients)
        scale = (self.cfg.clip / (norm + 1e-6)).clamp(max=1.0)
        self.adam.param_groups[0]["lr"] = 0.0 if frozen else self.cfg.lr
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # Fused Adam walks memory, so all its tensors must be laid out like the parameter.
            parameter.grad = torch.empty_like(parameter).copy_(gradient * scale)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and step counts, one tensor per parameter and kind."""
        state = self.adam.state_dict()["state"]
        return {f"{i}.{name}": x for i, entry in state.items() for name, x in entry.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            index, name = key.split(".")
            if tensor.ndim:
                tensor = torch.empty_like(self.parameters[int(index)]).copy_(tensor)
            state.setdefault(int(index), {})[name] = tensor
        groups = self.adam.state_dict()["param_groups"]
        self.adam.load_state_dict({"state": state, "param_groups": groups})


def step_all(loss: Tensor, optimizers: Sequence[Optimizer], frozen: Sequence[bool]) -> list[Tensor]:
    """One backward pass for several optimizers; the norm of each one's gradients.

    A parameter that the loss does not reach gets a zero gradient, so that weight decay acts on it.
    """
    parameters = [p for optimizer in optimizers for p in optimizer.parameters]
    gradients = iter(torch.autograd.grad(loss, parameters, materialize_grads=True))
    norms = []
    for optimizer, still in zip(optimizers, frozen, strict=True):
        norms.append(optimizer.step([next(gradients) for _ in optimizer.parameters], still))
    return norms


@contextmanager
def fixed(module: nn.Module) -> Iterator[None]:
    """What is computed inside teaches the module nothing, and so saves nothing for that."""
    learning = [p for p in module.parameters() if p.requires_grad]
    module.requires_grad_(False)
    yield
    for parameter in learning:
        parameter.requires_grad_(True)
