"""The order of events in fine-tuning matches the official code.

Official: `examples/train_apv_finetuning.py`. Random steps up to the end of an episode; updates on
them, in which the encoder of Meta-world has rate zero; evaluation; then an update after the first
step and every few further ones, and an evaluation every so many steps.
"""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from cwm import config
from cwm.commands.run_spec import run_spec
from cwm.infra.run_dir import RunDir
from cwm.train.finetune import FinetuneLoop, finetune
from cwm.train.nan_guard import NaNGuard

ROOT = Path(__file__).parents[2] / "config"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Run in a temporary folder."""
    monkeypatch.chdir(tmp_path)


def settings(suite, scale, what, sets=(), seed=0):
    folders = {"suite": suite, "scale": scale, "model": "contextwm", "variant": "standard"}
    files = [ROOT / folder / f"{name}.yaml" for folder, name in folders.items()]
    cfg = config.load(files, sets, what)
    return cfg, run_spec("finetune", f"{suite}/{what}", cfg, files, {}, seed)


class Rehearsal(FinetuneLoop):
    """The loop at full length; its parts only count calls."""

    EPISODE = 500  # agent steps, in both suites

    def __init__(self, cfg, run):
        self.cfg, self.run = cfg.finetune, run
        self.agent, self.guard = SimpleNamespace(state_dict=dict), NaNGuard(run, "cpu")
        self.policy = None
        self.step, self.learning_start = 0, None
        self.updates, self.evaluations, self.first = [], [], {}
        for name in ("metrics.jsonl", "timing.jsonl", "scores.csv", "episode.mp4"):
            (run.folder / name).touch()

    def collect(self, policy):
        self.step += 1
        kind = "random" if policy == self.random_action else "agent"
        self.first.setdefault(kind, self.step)
        return self.step % self.EPISODE == 0

    def update(self, rate):
        self.updates.append(self.step)
        return {}

    def evaluate(self, rate):
        self.evaluations.append((self.step, len(self.updates)))
        return {}

    def close(self):
        pass


@pytest.mark.parametrize(
    ("suite", "what", "prefill", "evaluations", "updates"),
    [("metaworld", "reach", 5000, 26, 50_100), ("dmc", "walker-run", 1000, 51, 100_100)],
)
def test_schedule_at_paper_length_matches_official_code(
    tmp_path, suite, what, prefill, evaluations, updates
):
    """Evaluations at 5k, 15k, ..., 255k agent steps, or at 1k, 11k, ..., 501k."""
    cfg, spec = settings(suite, "paper", what)
    with RunDir(spec, tmp_path / "run", 1e9) as run:
        work = Rehearsal(cfg, run)
        finetune(work)
    assert work.first == {"random": 1, "agent": prefill + 1}
    assert work.updates[:100] == [prefill] * 100
    assert work.updates[100:103] == [prefill + 1, prefill + 6, prefill + 11]
    assert all(b - a == 5 for a, b in pairwise(work.updates[100:]))
    expected = [(prefill + 10_000 * i, 100 + 2000 * i) for i in range(evaluations)]
    assert work.evaluations == expected
    assert len(work.updates) == updates
    assert work.step == expected[-1][0]


class Traced(FinetuneLoop):
    """A real run that records its events."""

    def __init__(self, *args):
        self.trace = []
        super().__init__(*args)

    def collect(self, policy):
        kind = "random" if policy == self.random_action else "agent"
        ended = super().collect(policy)
        self.trace.append((kind, self.step))
        return ended

    def update(self, rate):
        figures = super().update(rate)
        behavior = self.agent.behavior
        pairs = zip(behavior.target.parameters(), behavior.critic.parameters(), strict=True)
        copied = all(torch.equal(a, b) for a, b in pairs)
        lr = self.agent.optimizers["encoder"].adam.param_groups[0]["lr"].item()
        self.trace.append(("update", self.step, lr, copied))
        return figures

    def evaluate(self, rate):
        self.trace.append(("evaluate", self.step))
        return super().evaluate(rate)


def test_short_run_has_the_official_order_of_events(tmp_path):
    """Episodes of 10 steps, 20 random ones, 4 updates on them, then one in 5 steps up to 50."""
    sets = ["env.action_repeat=2", "finetune.prefill=20", "finetune.steps=50"]
    sets += ["finetune.offline_updates=4", "finetune.agent.encoder_frozen=4"]
    sets += ["finetune.train_every=5", "finetune.eval_every=10", "finetune.log_every=1"]
    sets += ["finetune.agent.behavior.target_every=3"]
    cfg, spec = settings("toy", "smoke", "sphere", sets)
    with RunDir(spec, tmp_path / "run", 1e9) as run:
        work = Traced(cfg.runtime, cfg.model, cfg.env, cfg.finetune, None, run)
        finetune(work)

    rate = cfg.finetune.agent.encoder_optimizer.lr
    expected = [("random", step) for step in range(1, 21)]
    # The encoder's rate is zero in the offline updates; the target is copied every third update.
    expected += [("update", 20, 0.0, i % 3 == 0) for i in range(4)]
    expected.append(("evaluate", 20))
    for step in range(21, 51):
        expected.append(("agent", step))
        if step in (21, 26, 31, 36, 41, 46):
            i = 4 + (step - 21) // 5
            expected.append(("update", step, rate, i % 3 == 0))
        if step in (30, 40, 50):
            expected.append(("evaluate", step))
    assert work.trace == expected

    # Logs count control steps of the training environment, two for each agent step.
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    events = [e for e in expected if e[0] in ("update", "evaluate")]
    assert [line["step"] for line in lines] == [2 * e[1] for e in events]
    assert ["eval/return" in line for line in lines] == [e[0] == "evaluate" for e in events]
    scores = pd.read_csv(tmp_path / "run/scores.csv")
    training = scores[scores["split"] == "train"]
    assert training["step"].tolist() == [20, 40, 60, 80, 100]
    assert scores[scores["split"] == "eval"]["step"].unique().tolist() == [40, 60, 80, 100]
    assert set(scores["length"]) == {10}
