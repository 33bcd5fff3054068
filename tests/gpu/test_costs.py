"""Benchmarks of a GPU time what a run does there: captured updates and actions."""

import pytest
from emulator import FakeDevice, install

from bench import costs, inputs, update
from cwm import config, plan

STEPS = {
    "pretrain": "contextwm",
    "update": "toy/blob/dreamer/standard",
    "collect": "toy/blob/dreamer",
}


@pytest.fixture
def emulator(monkeypatch):
    return install(monkeypatch)


@pytest.mark.parametrize("what", STEPS)
def test_costs_are_of_captured_graphs(emulator, tmp_path, what):
    names = {"model": "contextwm"} if what == "pretrain" else {"suite": "toy", "model": "dreamer"}
    cfg = plan.settings("smoke", None if what == "pretrain" else "blob", **names)
    do, *_ = costs.work(plan.unit(what, STEPS[what], cfg), tmp_path, FakeDevice("cpu"))
    do()
    (graph,) = emulator.graphs
    assert graph.replays >= 3


def test_an_update_is_captured_whole_and_eager_in_parts(emulator, tmp_path):
    cfg = config.load([update.CONFIG / "scale/smoke.yaml"])
    store = inputs.clip_store(tmp_path, 4, 16)
    subject = update.pretraining(cfg, FakeDevice("cpu"), store)
    subject.update()
    assert emulator.graphs == []
    subject.whole()
    assert len(emulator.graphs) == 1
