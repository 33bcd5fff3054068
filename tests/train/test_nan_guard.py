"""A NaN stops a run before it reaches a checkpoint, and the batch is kept."""

import pytest
import torch
from safetensors.torch import load_file
from squares import begin, store, watch
from test_finetune import RESULTS, content, learn, settings

from cwm import config
from cwm.agent import Agent
from cwm.infra.checkpoint import Checkpoints
from cwm.infra.errors import UserError
from cwm.train.nan_guard import NaNGuard
from cwm.train.replay import Replay


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_finetune_nan_saves_batch_and_resumes_from_before(tmp_path, monkeypatch):
    files, sets = settings(sets=["finetune.checkpoint_seconds=0"])
    learned = Agent.update

    def poisoned(self, batch):
        if self.updates == 4:
            next(self.world.parameters()).data.fill_(torch.nan)
        return learned(self, batch)

    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(Agent, "update", poisoned)
        learn(tmp_path / "run", files=files, sets=sets)
    (work,) = (path for path in (tmp_path / "results/smoke/work").iterdir() if path.is_dir())
    batch = work / "not-finite.safetensors"
    where = batch.relative_to(tmp_path)
    assert f"train/image is nan at update 4. The batch is in {where}" in str(error.value)
    assert "NaN" not in (work / "metrics.jsonl").read_text()
    tensors, state = Checkpoints(work / "checkpoint").latest()
    assert all(x.isfinite().all() for named in tensors.values() for x in named.values())
    replay = Replay(config.load(files, sets, "blob").finetune.replay, work / "replay", 8, 100)
    replay.restore(state["episodes"], state["remembered"])
    assert torch.equal(load_file(batch)["image"], replay.sample(0, 4, 4).image)

    learn(tmp_path / "run", files=files, sets=sets)  # as after a hardware fault
    learn(tmp_path / "straight", files=files, sets=sets)
    assert content(tmp_path / "run", *RESULTS) == content(tmp_path / "straight", *RESULTS)


def test_pretrain_stops_at_nan(tmp_path):
    with pytest.raises(UserError, match=r"train/image is (nan|inf) at update 2\. The batch is in"):
        watch(store(tmp_path), tmp_path / "run", sets=["pretrain.optimizer.lr=1e30"])


def test_gpu_metrics_are_checked_at_every_update_only_after_a_failure(tmp_path):
    _, run = begin("pretrain", tmp_path / "out", {"clips": store(tmp_path)})
    good, bad = ({"train/kl": torch.tensor(x)} for x in (1.0, torch.inf))
    with run:
        guard = NaNGuard(run, "cuda")
        guard.record(1, bad, {"image": torch.ones(2)})
        with pytest.raises(UserError, match="train/kl is inf at update 1 or earlier; rerun"):
            guard.check()
        guard = NaNGuard(run, "cuda")
        guard.record(1, good, {"image": torch.ones(2)})
        with pytest.raises(UserError, match=r"train/kl is inf at update 2\. The batch is in"):
            guard.record(2, bad, {"image": torch.zeros(2)})
        assert load_file(guard.path)["image"].tolist() == [0, 0]
