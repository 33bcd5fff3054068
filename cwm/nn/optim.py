"""Adam with a global-norm clip: one object and one call per loss."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cwm.infra.checkpoint import check_state_dict
from cwm.infra.ranks import average
from cwm.settings import OptimizerConfig


class Optimizer:
    """Clip the global gradient norm of a list of parameters, then take an Adam step."""

    def __init__(self, cfg: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> None:
        self.cfg = cfg
        self.parameters = list(parameters)
        self.adam = torch.optim.Adam(
            self.parameters, lr=cfg.lr, eps=cfg.eps, weight_decay=cfg.weight_decay, fused=True
        )

    def step(self, gradients: Sequence[Tensor]) -> Tensor:
        """Take a step; return the global gradient norm before clipping."""
        self._begin()
        # A capture requires `capturable`; outside of a capture Adam warns about it.
        capturing = self.parameters[0].is_cuda and torch.cuda.is_current_stream_capturing()
        self.adam.param_groups[0]["capturable"] = capturing
        norm = torch.nn.utils.get_total_norm(gradients)
        scale = (self.cfg.clip / (norm + 1e-6)).clamp(max=1.0)
        clipped = torch._foreach_mul(list(gradients), scale)
        for parameter, gradient in zip(self.parameters, clipped, strict=True):
            # Fused Adam reads memory in order, so gradients must have the parameter's strides.
            same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return norm

    def freeze(self, frozen: bool) -> None:
        """Set the rate to zero or back; Adam still updates its moments, as in the reference."""
        self._begin()
        self.adam.param_groups[0]["lr"].fill_(0.0 if frozen else self.cfg.lr)

    def _begin(self) -> None:
        """Allocate Adam's state on the parameters' device, as CUDA graphs require."""
        if self.adam.state:
            return
        device = self.parameters[0].device
        kind = (
            torch.float32 if device.type == "cuda" else torch.float64
        )  # the type that fused Adam expects
        self.adam.param_groups[0]["lr"] = torch.full((), self.cfg.lr, dtype=kind, device=device)
        for parameter in self.parameters:
            self.adam.state[parameter] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and step counts, one tensor per parameter and kind."""
        self._begin()
        return {
            f"{i}.{name}": x
            for i, parameter in enumerate(self.parameters)
            for name, x in self.adam.state[parameter].items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` returned; ValueError if names, shapes or types differ."""
        mine = self.state()
        check_state_dict(mine, tensors)
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)


def step_all(loss: Tensor, optimizers: Sequence[Optimizer]) -> list[Tensor]:
    """Run one backward pass and step every optimizer; return their gradient norms.

    Parameters that the loss does not depend on get a zero gradient, so weight decay acts on them.
    Gradients are averaged over the processes that share the batch.
    """
    parameters = [p for optimizer in optimizers for p in optimizer.parameters]
    gradients = iter(average(torch.autograd.grad(loss, parameters, materialize_grads=True)))
    return [opt.step([next(gradients) for _ in opt.parameters]) for opt in optimizers]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Freeze the module's parameters: no gradients for them, and no activations saved for those."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
