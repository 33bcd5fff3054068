"""Weights and checkpoints are written whole, and read only if they are."""

import json

import pytest
import torch
from torch import nn

from cwm.checkpoint import Checkpoints, load_parts, load_weights, save_weights
from cwm.errors import UserError


@pytest.fixture
def saved(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    save_weights(tmp_path, module.state_dict(), {"kind": "test"})
    return tmp_path / "weights.json", module


def test_weights_come_back_with_what_they_are(saved):
    path, module = saved
    tensors, about = load_weights(path)
    assert about["kind"] == "test"
    assert all(torch.equal(x, tensors[name]) for name, x in module.state_dict().items())


def test_damaged_weights_are_refused(saved):
    path, _ = saved
    file = path.with_name("weights.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
        load_weights(path)
    file.unlink()
    with pytest.raises(UserError, match="cannot read the weights"):
        load_weights(path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"weights\.json is not JSON"):
        load_weights(path)
    path.write_text('{"file": "../weights.safetensors", "sha256": ""}')
    with pytest.raises(UserError, match=r"weights\.json is not what it should be: file"):
        load_weights(path)


def test_parts_are_loaded_strictly(saved):
    path, module = saved
    tensors = {f"part.{name}": x for name, x in module.state_dict().items()}
    fresh = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_parts({"part": fresh}, tensors, path)
    assert torch.equal(fresh[0].weight, module[0].weight)
    with pytest.raises(UserError, match=r"does not fit the model: part: .*0\.weight"):
        load_parts({"part": nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))}, tensors, path)
    with pytest.raises(UserError, match="does not fit the model"):
        load_parts({"other": fresh}, tensors, path)


def test_the_newest_complete_checkpoint_counts(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    assert checkpoints.latest() is None
    checkpoints.save(1, {"a": {"x": torch.ones(2)}}, {"step": 1})
    checkpoints.save(2, {"a": {"x": torch.zeros(2)}}, {"step": 2})
    assert len(list((tmp_path / "checkpoint").iterdir())) == 1
    unfinished = tmp_path / "checkpoint" / "000000003"
    unfinished.mkdir()
    (unfinished / "state.json").write_text(json.dumps({"step": 3}))
    tensors, state = checkpoints.latest()
    assert state["step"] == 2
    assert tensors["a"]["x"].tolist() == [0, 0]
    checkpoints.save(4, {}, {})
    assert [path.name for path in unfinished.parent.iterdir()] == ["000000004"]


@pytest.mark.parametrize("name", ["a.safetensors", "state.json", "done"])
@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_damaged_checkpoint_is_named_and_not_gone_on_with(tmp_path, name, harm):
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    checkpoints.save(1, {"a": {"x": torch.ones(2)}}, {"step": 1})
    path = tmp_path / "checkpoint/000000001" / name
    if harm == "changed":
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    else:
        path.unlink()
    if (name, harm) == ("done", "missing"):
        assert checkpoints.latest() is None  # as if it had not been finished
        return
    with pytest.raises(
        UserError, match=f"checkpoint {path.parent} is damaged .* delete {tmp_path}"
    ):
        checkpoints.latest()
