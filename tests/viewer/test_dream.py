"""`cwm dream`: which models it opens."""

import json
import shutil

import pytest
from running import asked, viewer
from test_convert import convert, official_state, save

from cwm.commands import dream
from cwm.infra.errors import UserError
from cwm.models import load
from cwm.viewer.session import LENGTH

SHOW = {"do": "clip", "clip": 0, "observed": 5, "context": {"kind": "own"}}


def test_converted_official_weights_are_shown(made, tmp_path, monkeypatch, pytestconfig):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(pytestconfig.rootpath / "config")
    assert not convert(
        tmp_path, save(tmp_path / "theirs", official_state("pretrain_ctx")), "contextwm"
    )
    with viewer(tmp_path / "ours", "--clips", made / "long/store.json") as address:
        hello, facts, body = asked(address, **SHOW)
    assert hello["models"] == {"contextwm, official-x": True}
    assert facts["do"] == "clip"
    assert len(body) == (2 * LENGTH + 1) * 64 * 64 * 3  # truth, prediction and context frame


def test_published_models_are_the_default(made, tmp_path, monkeypatch):
    monkeypatch.setattr(dream, "PUBLISHED", tmp_path / "evidence")
    with pytest.raises(UserError, match=r"no models in .*evidence: name the folder of a run"):
        dream.dream([], None, 0, show=False)
    kept = tmp_path / "evidence/pretrain/something/plain/0"
    shutil.copytree(made / "plain", kept)
    (kept.with_name("1")).mkdir()
    shutil.copy(kept / "weights.json", kept.with_name("1"))  # published without its weights
    assert dream.published() == [str(kept)]


def test_a_checkout_comes_with_both_world_models():
    found = {load(place).about["model"] for place in dream.published()}
    assert {"contextwm", "plain"} <= found


def test_agent_without_a_task_is_an_error(made, tmp_path):
    shutil.copytree(made / "agent", tmp_path / "agent")
    path = tmp_path / "agent/weights.json"
    about = json.loads(path.read_text())
    del about["suite"]
    path.write_text(json.dumps(about))
    with pytest.raises(UserError, match="agent does not say which task its agent learned"):
        dream.dream([str(tmp_path / "agent")], None, 0, show=False)
