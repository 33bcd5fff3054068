"""Official checkpoints convert to ours and back, bit for bit; bad ones raise one-line errors."""

import io
import json
import logging
import os
import zipfile
from collections import OrderedDict

import pytest
import torch
import yaml
from golden import ABOUT, Golden, Numbers, weight
from typer.testing import CliRunner

from cwm.cli import app
from cwm.convert import IGNORED, PARTS, is_agent, official_name, read_state
from cwm.infra.checkpoint import load_weights
from cwm.infra.errors import UserError

SIZES = {
    "model": {
        "vision": {"depth": ABOUT["depth"]},
        "rssm": {name: ABOUT[name] for name in ("deter", "stoch", "classes", "hidden")},
    },
    "finetune": {
        "agent": {
            "world": {"head": {name: ABOUT[name] for name in ("layers", "units")}},
            "behavior": {
                part: {name: ABOUT[name] for name in ("layers", "units")}
                for part in ("actor", "critic")
            },
            "bonus": {name: ABOUT[name] for name in ("queue", "width")},
        }
    },
}
# File of recorded arrays, with the names of an official state dict -> model, --set words.
MODELS = {
    "pretrain_ctx": ("contextwm", []),
    "pretrain_plain": ("plain", []),
    "finetune_ctx": ("contextwm", ["finetune.agent.world.concat_embed=true"]),
    "finetune_ctx_metaworld": ("contextwm", []),
    "finetune_plain": ("plain", []),
    "dreamerv2": ("dreamer", []),
}


def official_state(name):
    """A whole official state dict of random values."""
    table = Golden(name, Numbers(torch.float64)).weights
    state = OrderedDict()
    for key, (rule, shape) in table.items():
        value = torch.as_tensor(weight(rule, tuple(shape), seed=7))
        if key.endswith("num_batches_tracked"):
            value = torch.tensor(len(key))
        elif key.endswith("mag"):
            value = torch.tensor(1.1, dtype=torch.float64) ** len(key.split(".", 1)[1])
        elif key.endswith("queue"):
            value = torch.zeros(shape)
            value[:5] = torch.rand(5, shape[1])
        state[key] = value
    return state


def save(folder, state):
    """Write the files that the official code writes."""
    folder.mkdir(parents=True)
    torch.save(state, folder / "variables.pt")
    for name, prefix in {} if is_agent(state) else PARTS.items():
        own = {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
        torch.save(OrderedDict(own), folder / name)
    return folder


@pytest.fixture(autouse=True)
def current_folder(tmp_path, monkeypatch, pytestconfig):
    """Runs create their work folder below the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(pytestconfig.rootpath / "config")


def settings(tmp_path, model, pad=ABOUT["action_pad"]):
    sizes = tmp_path / "sizes.yaml"
    sizes.write_text(yaml.safe_dump(SIZES))
    words = [] if model == "dreamer" else [f"model.rssm.action_pad={pad}"]
    return [str(sizes), f"config/model/{model}.yaml"], words


def cwm(*words):
    """Run a command; returns its error message, empty if there is none."""
    error = CliRunner().invoke(app, [str(word) for word in words]).exception
    assert error is None or isinstance(error, UserError), error
    return str(error or "")


def convert(tmp_path, folder, model, words=()):
    files, sets = settings(tmp_path, model)
    sets = [part for word in [*sets, *words] for part in ("--set", word)]
    return cwm("convert", folder, *files, "--out", "ours", "--dataset", "official-x", *sets)


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_survives_conversion_there_and_back(tmp_path, name):
    model, words = MODELS[name]
    state = official_state(name)
    theirs = save(tmp_path / "theirs", state)
    assert not convert(tmp_path, theirs, model, words)
    tensors, about = load_weights(tmp_path / "ours/weights.json")
    assert (about["kind"], about["dataset"]) == (
        "agent" if is_agent(state) else "action-free",
        "official-x",
    )
    run = json.loads((tmp_path / "ours/run.json").read_text())
    assert run["inputs"].keys() == {path.name for path in theirs.iterdir()}
    for key, value in tensors.items():
        if key == "bonus.filled":
            assert value == 5  # rows of the queue that are not zero
        else:
            assert torch.equal(value, state[official_name(key)]), key

    assert not cwm("convert", "ours/weights.json", "--out", "back")
    assert {p.name for p in theirs.iterdir()} == {p.name for p in (tmp_path / "back").iterdir()}
    for path in theirs.iterdir():
        before, after = (torch.load(p) for p in (path, tmp_path / "back" / path.name))
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert value.dtype == after[key].dtype, key
            assert torch.equal(value, after[key]), key


def test_three_parts_and_the_whole_give_the_same_weights(tmp_path):
    theirs = save(tmp_path / "theirs", official_state("pretrain_plain"))
    (tmp_path / "whole").mkdir()
    os.link(theirs / "variables.pt", tmp_path / "whole/variables.pt")
    (theirs / "variables.pt").unlink()
    digests = []
    for folder in (theirs, tmp_path / "whole"):
        assert not convert(tmp_path, folder, "plain")
        digests.append(json.loads((tmp_path / "ours/weights.json").read_text())["sha256"])
    assert digests[0] == digests[1]


def test_buffers_of_the_augmentation_are_ignored_and_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    state = official_state("pretrain_ctx")
    state[IGNORED + "_param_generator.scale"] = torch.ones(2)
    assert not convert(tmp_path, save(tmp_path / "theirs", state), "contextwm")
    assert f"ignored, as they hold nothing learned: {IGNORED}_param_generator.scale" in caplog.text


DECODER = "wm.heads.decoder.convin.bias"
TWIN = "_expl_behavior.actor.out.out.bias"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pretrain_ctx", lambda s: s.pop(DECODER), f"lacks {DECODER}"),
        (
            "pretrain_ctx",
            lambda s: s.update({"wm.more": torch.ones(1)}),
            "wm.more is not in the model of the settings",
        ),
        (
            "pretrain_ctx",
            lambda s: s.update({DECODER: torch.ones(3)}),
            f"{DECODER} is torch.float32 of shape (3,); the settings need torch.float32 of",
        ),
        (
            "pretrain_ctx",
            lambda s: s.update({DECODER: s[DECODER].half()}),
            f"{DECODER} is torch.float16 of shape (512,); the settings need torch.float32 of shape",
        ),
        (
            "pretrain_ctx",
            lambda s: s[DECODER].fill_(torch.nan),
            "decoder_variables.pt: convin.bias has values that are not finite",
        ),
        (
            "finetune_plain",
            lambda s: s.update({TWIN: s[TWIN] + 1}),
            f"{TWIN} differs from its copy in _task_behavior.",
        ),
    ],
)
def test_a_wrong_checkpoint_is_an_error_naming_the_key(tmp_path, name, change, message):
    state = official_state(name)
    change(state)
    error = convert(tmp_path, save(tmp_path / "theirs", state), MODELS[name][0])
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "ours").exists()


def test_a_checkpoint_of_another_model_is_an_error(tmp_path):
    theirs = save(tmp_path / "theirs", official_state("pretrain_ctx"))
    error = convert(tmp_path, theirs, "plain")
    assert "wm.encoder.cond_convin.bias is not in the model" in error
    error = convert(tmp_path, theirs, "contextwm", ["model.rssm.deter=41"])
    assert "decoder.convin.weight is torch.float32 of shape (512, 70); the settings need" in error


def test_a_folder_of_two_models_or_of_half_a_model_is_an_error(tmp_path):
    theirs = save(tmp_path / "theirs", official_state("pretrain_plain"))
    state = torch.load(theirs / "rssm_variables.pt")
    state["img_in.bias"] += 1
    torch.save(state, theirs / "rssm_variables.pt")
    error = convert(tmp_path, theirs, "plain")
    assert "wm.rssm.img_in.bias differs from variables.pt" in error
    (theirs / "variables.pt").unlink()
    (theirs / "encoder_variables.pt").unlink()
    error = convert(tmp_path, theirs, "plain")
    assert "has neither variables.pt nor encoder_variables.pt" in error


def test_export_takes_no_settings(tmp_path):
    (tmp_path / "weights.json").write_text("{}")
    error = cwm("convert", "weights.json", "config/model/plain.yaml", "--out", "back")
    assert "give no CONFIG and no --set" in error


class Harm:
    """Creates a folder when unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


def claim_more(path):
    """Write a tensor of four numbers whose header claims 65535."""
    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for name, part in parts.items():
            if name.endswith("data.pkl"):
                assert part.count(b"K\x04") == 2
                part = part.replace(b"K\x04", b"M\xff\xff")
            file.writestr(name, part)
    path.write_bytes(content.getvalue())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.save({"a": Harm()}, p), r"holds posix.mkdir, which could run code"),
        (lambda p: torch.save(torch.nn.Linear(1, 1), p), r"holds torch\.nn\..*, which could run"),
        (lambda p: p.write_bytes(b""), "is damaged .*; it must be a complete file of `torch.save`"),
        (lambda p: p.write_bytes(b"\x80\x02}q\x00."), "is damaged"),
        (claim_more, "is damaged"),
        (
            lambda p: torch.save({"a": torch.zeros(1).expand(10**12)}, p),
            "a claims more values than the file has",
        ),
        (lambda p: torch.save({"a": torch.zeros(3).to_sparse()}, p), "a is a torch.sparse_coo"),
        (lambda p: torch.save([1], p), "holds a list; it must be a state dict"),
        (lambda p: torch.save({"a": {"b": torch.zeros(1)}}, p), "'a' is a dict"),
        (lambda p: torch.save({3: torch.zeros(1)}, p), "3 is a Tensor"),
    ],
)
def test_a_harmful_or_malformed_file_is_an_error(tmp_path, make, message):
    path = tmp_path / "variables.pt"
    make(path)
    with pytest.raises(UserError, match=message):
        read_state(path)
    assert not (tmp_path / "harm").exists()
