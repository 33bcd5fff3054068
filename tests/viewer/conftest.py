"""Small models and clips for the viewer."""

import contextlib

import pytest
import torch
import yaml
from squares import ROOT, store, watch

import cwm
from cwm import config
from cwm.agent import Agent
from cwm.infra.checkpoint import save_weights


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folders of a contextual and a plain pre-trained model and of an agent on toy/sphere."""
    folder = tmp_path_factory.mktemp("viewer")
    with contextlib.chdir(folder):
        clips = store(folder)
        (folder / "long").mkdir()
        store(folder / "long", length=24)
        for model in ("contextwm", "plain"):
            watch(clips, folder / model, model)
        names = ("suite/toy", "scale/smoke", "model/contextwm")
        cfg = config.load([ROOT / f"{name}.yaml" for name in names], task="sphere")
        settings = config.resolved(cfg, ("runtime", "model", "env", "finetune"))
        (folder / "agent").mkdir()
        (folder / "agent/config.yaml").write_text(yaml.safe_dump(settings))
        torch.manual_seed(0)
        about = {"kind": "agent", "suite": "toy", "task": "sphere", "model": "contextwm"}
        agent = Agent(cfg.model, cfg.finetune.agent, 2)
        save_weights(folder / "agent", agent.state_dict(), about)
    return folder


@pytest.fixture(scope="session")
def models(made):
    return {name: cwm.load(made / name) for name in ("contextwm", "plain", "agent")}
