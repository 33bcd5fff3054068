"""Tensors of the device "cuda" without values and without a GPU.

test_devices.py runs this with guard.cpp preloaded. Code takes the GPU branches (`is_cuda`, CUDA
autocast, cuDNN, fused attention) and raises if it mixes devices or reads a value. In captured code,
every operation on a CPU tensor is an error too. Prints one line of JSON: case -> error, or "".

It runs no kernels; it tracks shapes, types and devices only.
"""

import json
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cwm import config
from cwm.agent import Agent
from cwm.nn.batch import Batch, clip_batch
from cwm.nn.optim import Optimizer
from cwm.settings import RuntimeConfig
from cwm.train.pretrain import learner
from cwm.world.action_free import ActionFreeModel
from cwm.world.openloop import predict, squared_errors

ROOT = Path(__file__).parents[2]
MODELS, VARIANTS = (
    sorted(path.stem for path in (ROOT / "config" / folder).glob("*.yaml"))
    for folder in ("model", "variant")
)
FAKE = FakeTensorMode(allow_non_fake_inputs=False)
DROPOUT = "model.context.dropout=0.1"


class NoCPU(TorchDispatchMode):
    """Raises at operations on CPU tensors, whose first value a graph would keep."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        used = tree_leaves((args, kwargs, results))
        if any(x.device.type == "cpu" for x in used if isinstance(x, Tensor)):
            raise RuntimeError(f"{function} uses a tensor of the CPU")
        return results


class NoChance(TorchDispatchMode):
    """Raises at random operations: in torch 2.11, overlapping graphs share one seed."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise RuntimeError(f"{function} draws random numbers")
        return function(*args, **(kwargs or {}))


def fused_adam(
    params: list[Tensor], gradients: list[Tensor], *others: list[Tensor], lr: Tensor, **_: Any
) -> None:
    """Check what CUDA's fused Adam requires: one device, float32 scalars, equal strides."""
    means, squares, _, steps = others
    assert lr.is_cuda and lr.dtype == torch.float32
    for tensors in zip(params, gradients, means, squares, steps, strict=True):
        assert all(x.is_cuda and x.dtype == torch.float32 for x in tensors)
        assert len({x.stride() for x in tensors[:4]}) == 1


def to_cuda(module: nn.Module) -> nn.Module:
    """Replace parameters and buffers by fake CUDA tensors, like Module.to("cuda")."""
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, x in table.items():
                if x is not None:
                    kind = {"dtype": x.dtype, "device": "cuda"}
                    with FAKE:
                        moved = torch.empty_strided(x.shape, x.stride(), **kind)
                    learned = isinstance(x, nn.Parameter)
                    table[name] = nn.Parameter(moved, x.requires_grad) if learned else moved
    return module


def settings(model: str, variant: str, precision: str) -> config.Config:
    names = {"suite": "metaworld", "scale": "smoke", "model": model, "variant": variant}
    sets = [f"runtime.precision={precision}", *[DROPOUT] * model.startswith("contextwm")]
    return config.load([ROOT / f"config/{f}/{n}.yaml" for f, n in names.items()], sets, "reach")


def images(*shape: int) -> Tensor:
    return torch.empty(*shape, 64, 64, 3, dtype=torch.uint8, device="cuda")


def pretraining(model: str, precision: str) -> None:
    """An update, and the errors of an open-loop prediction."""
    cfg = settings(model, "standard", precision)
    world = to_cuda(ActionFreeModel(cfg.model, cfg.pretrain.world))
    optimizer = Optimizer(cfg.pretrain.optimizer, world.parameters())
    learn = learner(world, optimizer, RuntimeConfig(precision=precision, graphs=False), "cuda")
    with FAKE, NoCPU():
        figures = learn(images(3, 8))
        on_gpu(figures, world.state_dict(), optimizer.state())
    assert optimizer.adam.param_groups[0]["capturable"]  # or Adam refuses to be captured
    with FAKE, torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        world.eval()
        clips = clip_batch(images(3, 8))
        on_gpu(squared_errors(predict(world, clips, 4), clips, 4))


def finetuning(model: str, variant: str, precision: str) -> None:
    """An update, and two steps of acting."""
    cfg = settings(model, variant, precision)
    agent = to_cuda(Agent(cfg.model, cfg.finetune.agent, 4, precision))
    agent.optimizers = agent._optimizers()  # of the parameters on the GPU
    floats = partial(torch.empty, device="cuda")
    with FAKE, NoCPU():
        figures = agent.update(Batch(images(3, 8), floats(3, 8), floats(3, 8, 4), floats(3, 8)))
        on_gpu(figures, agent.state_dict(), *(x.state() for x in agent.optimizers.values()))
    agent.eval()
    rssm = cfg.model.rssm
    with FAKE, NoCPU(), NoChance(), torch.no_grad():
        belief = agent.world.initial_belief(2)
        noise = floats(2, 2, 1, rssm.stoch, rssm.classes)
        sample, mode, after = agent._policy_step(belief, images(2), floats(2), noise, floats(2, 4))
        on_gpu({"sample": sample, "mode": mode})
    kinds = [
        [x is not None and (x.shape, x.dtype) for x in tree_leaves(c)] for c in (belief, after)
    ]
    assert kinds[0] == kinds[1], "the first step of an episode needs a graph of its own"


def on_gpu(*tables: dict[str, Tensor]) -> None:
    elsewhere = [name for table in tables for name, x in table.items() if not x.is_cuda]
    assert not elsewhere, f"not on the GPU: {elsewhere}"


def mixed() -> None:
    with FAKE:
        torch.empty(3, device="cuda") + torch.empty(3)


def scalar_of_the_cpu() -> None:
    """CUDA accepts it, and a graph would keep its value."""
    with FAKE:
        x, scalar = torch.empty(3, device="cuda"), torch.empty(())
        with NoCPU():
            x + scalar


def index_of_the_cpu() -> None:
    """CUDA would copy it synchronously."""
    with FAKE:
        x, index = torch.empty(3, device="cuda"), torch.zeros(2, dtype=torch.long)
        with NoCPU():
            x[index]


def chance() -> None:
    with FAKE, NoChance():
        torch.rand(3, device="cuda")


def value() -> None:
    with FAKE:
        torch.empty(3, device="cuda").sum().item()


WRONG = (mixed, scalar_of_the_cpu, index_of_the_cpu, chance, value)


def cases() -> dict[str, Callable[[], None]]:
    """All cases by name; those named "wrong" must raise."""
    found = {f"wrong: {f.__name__}": f for f in WRONG}
    found |= {
        f"pretrain {model}": partial(pretraining, model, "bf16")
        for model in MODELS
        if settings(model, "standard", "bf16").model.stacked
    }
    tuned = [(model, "standard") for model in MODELS] + [("contextwm", v) for v in VARIANTS]
    found |= {f"finetune {m} {v}": partial(finetuning, m, v, "bf16") for m, v in tuned}
    found["pretrain contextwm fp32"] = partial(pretraining, "contextwm", "fp32")
    found["finetune contextwm fp32"] = partial(finetuning, "contextwm", "standard", "fp32")
    return found


def main() -> None:
    torch.cuda.is_available = lambda: True
    torch.cuda.is_bf16_supported = lambda *_: True
    torch.cuda.is_current_stream_capturing = lambda: True
    torch._fused_adam_ = fused_adam
    errors = {}
    for name, case in cases().items():
        try:
            case()
            errors[name] = ""
        except Exception as error:
            ours = [f for f in traceback.extract_tb(error.__traceback__) if "cwm/" in f.filename]
            where = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
            errors[name] = f"{type(error).__name__}: {error}{where}"
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
