"""On a CPU that emulates CUDA graphs, captured runs equal eager ones bit for bit."""

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from emulator import install

from bench import inputs, whole_runs
from cwm.infra.cuda_graph import CapturedFunction
from cwm.infra.device import reseed
from cwm.train.policies import DelayedPolicy

# Models and variants with other networks, losses or random draws; the rest differ in numbers only.
MODELS = ("contextwm", "contextwm-concatenation", "plain", "dreamer")
VARIANTS = ("no-bonus", "no-dual-reward", "erased-context", "flipped-context", "scaled-context")
VARIANTS += ("shifted-context",)
CASES = [(model, "standard") for model in MODELS] + [("contextwm", v) for v in VARIANTS]


@pytest.fixture(autouse=True)
def emulator(monkeypatch):
    return install(monkeypatch)


@pytest.mark.parametrize("name", [*whole_runs.STOPPED, "fine-tuning, overlapped"])
def test_whole_run_has_the_same_bytes_captured(emulator, name):
    same = whole_runs.compare(name)
    assert "weights.safetensors" in same and "metrics.jsonl" in same
    assert all(same.values()), same
    assert emulator.graphs


def test_runs_compute_in_bfloat16(tmp_path, monkeypatch):
    """Otherwise the comparisons above would not test autocast."""
    monkeypatch.chdir(tmp_path)
    run = whole_runs.RUNS["pre-training"]
    half = whole_runs.files(run, Path("half"), [])
    full = whole_runs.files(run, Path("full"), ["runtime.precision=fp32"])
    assert half["weights.safetensors"] != full["weights.safetensors"]


@pytest.mark.parametrize(
    ("model", "variant", "precision"),
    [(*case, "bf16") for case in CASES] + [("contextwm", "standard", "fp32")],
)
def test_captured_updates_and_actions_equal_eager(model, variant, precision):
    """With dropout, and with schedules that change during the three updates."""
    sets = ["finetune.agent.encoder_frozen=2", "finetune.agent.behavior.target_every=2"]
    sets += ["model.context.dropout=0.1"] * model.startswith("contextwm")
    agents = [inputs.agent(model, variant, "smoke", precision, "cpu", sets) for _ in range(2)]
    eager, captured = agents
    captured.capture()
    batch = inputs.batch(3, 8, "cpu")
    belief = [None, None]
    for i in range(3):
        found = []
        for k, agent in enumerate(agents):
            reseed("update", i)
            figures = agent.update(batch)
            reseed("act", i)
            seen = batch.image[:, i].numpy(), batch.is_first[:, i].numpy()
            action, belief[k] = agent.act(*seen, belief[k], explore=True)
            found.append({**figures, "action": torch.as_tensor(action)})
        same(*found)
    same(eager.state_dict(), captured.state_dict())
    assert (
        len(captured._policy_step.captured) == 1
    )  # the first step of an episode needs no other graph


def same(one, other):
    assert one.keys() == other.keys()
    assert [name for name, x in one.items() if not torch.equal(x, other[name])] == []


# Negative controls: the emulator detects what would be wrong on a GPU.


def test_emulator_detects_overwritten_results(monkeypatch):
    """An evaluation shares the graph of the training policy and would overwrite its belief."""
    monkeypatch.setattr(
        CapturedFunction, "__call__", CapturedFunction._replay
    )  # without copying the results
    assert not any(whole_runs.compare("fine-tuning").values())


def test_emulator_detects_frozen_python_state():
    """Eager calls count 2, 3, 4; a graph repeats the count of its capture, the fourth call."""

    class Counter:
        count = 1

        def times(self, x):
            self.count += 1
            return self.count * x

    ten = torch.tensor([10.0])
    eager, captured = Counter().times, CapturedFunction(Counter().times)
    assert [eager(ten).item() for _ in range(3)] == [20, 30, 40]
    assert [captured(ten).item() for _ in range(3)] == [50, 50, 50]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: 1 if x.sum() > 0 else 0,
        lambda x: x.equal(x),
        lambda x: x.unique(),
    ],
)
def test_reading_a_value_breaks_a_capture(read):
    def function(x):
        read(x)
        return x + 1

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        CapturedFunction(function)(torch.ones(1))


def test_capture_restores_state_and_random_numbers():
    """Warm-up and capture call the function four times, without a lasting effect."""
    total = torch.zeros(1)

    def function(x):
        total.add_(x)
        return total + torch.rand(1)

    captured = CapturedFunction(function, lambda: [total])
    torch.manual_seed(0)
    found = [captured(torch.ones(1)) for _ in range(2)]
    assert total.item() == 2
    torch.manual_seed(0)
    assert found == [1 + torch.rand(1), 2 + torch.rand(1)]  # the first result is unchanged


def test_caller_may_change_results():
    captured = CapturedFunction(lambda x: {"sum": x + 1, "parts": (x, None)})
    first = captured(torch.ones(1))
    first["other"] = first.pop("sum").fill_(7)
    again = captured(torch.ones(1))
    assert again == {"sum": torch.tensor([2.0]), "parts": (torch.ones(1), None)}


def test_other_threads_may_pin_memory_during_a_capture(monkeypatch):
    """The prefetching thread does."""

    def function(x):
        thread = threading.Thread(target=pin)
        thread.start()
        thread.join()
        return x + 1

    def pin():
        try:
            torch.ones(1).pin_memory()
        except RuntimeError as error:
            errors.append(error)

    errors = []
    CapturedFunction(function)(torch.ones(1))
    assert errors == []
    graph = torch.cuda.graph
    monkeypatch.setattr(torch.cuda, "graph", lambda g, stream, **_: graph(g, stream))
    CapturedFunction(function)(torch.ones(1))
    assert len(errors) == 1


def test_captures_that_share_a_stream_are_an_error(monkeypatch):
    shared = torch.cuda.Stream()
    monkeypatch.setattr(torch.cuda, "Stream", lambda: shared)
    captured = CapturedFunction(lambda x: x + 1)
    captured(torch.ones(1))
    with pytest.raises(RuntimeError, match="stream of its own"):
        captured(torch.ones(2))


def test_each_input_type_and_structure_has_its_own_graph():
    """Types: float32 and int64. Structures: either input is None."""
    double = CapturedFunction(lambda x: 2 * x)
    for value in (torch.tensor([1.5]), torch.tensor([3])):
        assert double(value).tolist() == (2 * value).tolist()
    assert len(double.captured) == 2
    either = CapturedFunction(lambda a, b: b + 1 if a is None else a - 1)
    assert either(torch.ones(1), None).item() == 0
    assert either(None, torch.ones(1)).item() == 2
    assert len(either.captured) == 2


def test_dead_graphs_are_collected_before_a_capture(monkeypatch):
    """An agent and its graphs form a cycle; destroying a graph breaks a running capture."""
    dead = CapturedFunction(lambda x: x)
    dead.itself, alive = dead, weakref.ref(dead)
    del dead
    graph, seen = torch.cuda.graph, []

    def capture(*args, **options):
        seen.append(alive())
        return graph(*args, **options)

    monkeypatch.setattr(torch.cuda, "graph", capture)
    gc.disable()
    try:
        CapturedFunction(lambda x: x + 1)(torch.ones(1))
    finally:
        gc.enable()
    assert seen == [None]


def test_delayed_policy_acts_on_its_own_stream_after_sync(emulator, monkeypatch):
    """The runs above have no such stream, because `is_cuda` is false on a CPU."""
    delayed = DelayedPolicy(
        inputs.agent("dreamer", "standard", "smoke", "fp32", "cpu"), explore=True
    )
    delayed.stream, ran = torch.cuda.Stream(), []
    monkeypatch.setattr(
        delayed.agent, "act", lambda *_: (ran.append(emulator.current_stream()), None)
    )
    delayed(inputs.batch(1, 8, "cpu").image[:, 0].numpy(), np.array([True]))
    assert delayed.stream.waited == [emulator.current_stream()]
    assert ran == [delayed.stream]
