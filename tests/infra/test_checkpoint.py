"""Weights and checkpoints are written atomically; damage is detected."""

import json

import pytest
import torch
from torch import nn

from cwm.infra.checkpoint import (
    Checkpoints,
    load_parts,
    load_strict,
    load_weights,
    save_weights,
)
from cwm.infra.errors import UserError
from cwm.infra.files import sha256
from cwm.nn.optim import Optimizer
from cwm.settings import OptimizerConfig


@pytest.fixture
def saved(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    save_weights(tmp_path, module.state_dict(), {"kind": "test"})
    return tmp_path / "weights.json", module


def test_weights_are_saved_with_their_metadata(saved):
    path, module = saved
    tensors, metadata = load_weights(path)
    assert metadata["kind"] == "test"
    assert all(torch.equal(x, tensors[name]) for name, x in module.state_dict().items())


def test_damaged_weights_are_an_error(saved):
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
    with pytest.raises(UserError, match=r"weights\.json: file is"):
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


def state(step):
    return {"step": step, "logs": {}}


def test_latest_is_the_newest_complete_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    assert checkpoints.latest() is None
    checkpoints.save(1, {"a": {"x": torch.ones(2)}}, state(1))
    checkpoints.save(2, {"a": {"x": torch.zeros(2)}}, state(2))
    assert len(list((tmp_path / "checkpoint").iterdir())) == 1
    unfinished = tmp_path / "checkpoint" / "000000003"
    unfinished.mkdir()
    (unfinished / "state.json").write_text(json.dumps(state(3)))
    tensors, found = checkpoints.latest()
    assert found["step"] == 2
    assert tensors["a"]["x"].tolist() == [0, 0]
    checkpoints.save(4, {}, state(4))
    assert [path.name for path in unfinished.parent.iterdir()] == ["000000004"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"junk", "Error while deserializing"),
        ("state.json", b'{"step": 7}', "state.json: logs is missing"),
        ("state.json", None, "cannot read .*state.json"),
        ("a.safetensors", None, "a.safetensors has changed since"),
        ("done", b"{}", "a.safetensors has changed since"),
        ("done", b"{", "done is not JSON"),
        ("b.safetensors", b"", "b.safetensors has changed since"),
    ],
)
def test_damaged_checkpoint_is_an_error(tmp_path, name, content, message):
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    checkpoints.save(1, {"a": {"x": torch.ones(2)}}, state(1))
    folder = tmp_path / "checkpoint/000000001"
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    if name == "state.json" or content == b"junk":  # with the right checksum
        checksums = {p.name: sha256(p) for p in folder.iterdir() if p.name != "done"}
        (folder / "done").write_text(json.dumps(checksums))
    with pytest.raises(
        UserError, match=f"checkpoint {folder} is damaged .*{message}.* delete {tmp_path}"
    ) as error:
        checkpoints.latest()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("weight", torch.zeros(1)), ("bias", torch.zeros(3).double()), ("other", torch.zeros(3))],
)
def test_state_dict_with_wrong_name_shape_or_dtype_is_an_error(name, tensor):
    module = nn.Linear(2, 3)
    optimizer = Optimizer(OptimizerConfig(), module.parameters())
    moment = {"weight": "0.exp_avg", "bias": "1.exp_avg"}.get(name, name)
    with pytest.raises(ValueError, match=f"{name} is missing, unexpected, or has"):
        load_strict(module, module.state_dict() | {name: tensor})
    with pytest.raises(ValueError, match=f"{moment} is missing, unexpected, or has"):
        optimizer.load_state(optimizer.state() | {moment: tensor})
