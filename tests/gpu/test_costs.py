"""Benchmarks of a GPU time what a run does there: captured updates and actions."""

import pytest
from emulator import FakeDevice, install

from bench import costs, inputs, update
from cwm import config, plan


@pytest.fixture
def emulator(monkeypatch):
    monkeypatch.setattr(costs, "ROUNDS", 1)
    monkeypatch.setattr(costs, "STEPS", 3)
    monkeypatch.setattr(costs, "clock", lambda device: 0.0)
    return install(monkeypatch)


@pytest.mark.parametrize(("stage", "graphs"), [("pretrain", 1), ("finetune", 2)])
def test_costs_are_of_captured_graphs(emulator, tmp_path, stage, graphs):
    """One graph of the update, and in fine-tuning one of the policy."""
    if stage == "pretrain":
        cfg = plan.settings("smoke", model="contextwm")
        costs.pretraining(cfg, FakeDevice("cpu"), tmp_path)
    else:
        cfg = plan.settings("smoke", "blob", suite="toy", model="dreamer")
        costs.finetuning("toy/blob", cfg, FakeDevice("cpu"), tmp_path)
    assert len(emulator.graphs) == graphs
    assert all(graph.replays >= 1 for graph in emulator.graphs)


def test_update_is_captured_as_a_whole_and_eager_for_its_parts(emulator, tmp_path):
    cfg = config.load([update.CONFIG / "scale/smoke.yaml"])
    store = inputs.clip_store(tmp_path, 4, 16)
    subject = update.pretraining(cfg, FakeDevice("cpu"), store)
    subject.update()
    assert emulator.graphs == []
    subject.whole()
    assert len(emulator.graphs) == 1
