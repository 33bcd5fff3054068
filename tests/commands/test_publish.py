"""Published results: complete for the figures, small, and checked."""

import json

import pytest
import torch
from analysis import study

from cwm.commands.publish import publish
from cwm.commands.redraw import redraw
from cwm.infra.checkpoint import save_weights
from cwm.infra.errors import UserError

STUDY = """figures:
  learning:
    kind: curves
    title: Curves
    runs: [{suite: toy, tasks: [sphere], models: [plain], datasets: [none], seeds: 3}]
  losses:
    kind: pretraining
    title: Losses
    pretrained: &models [{datasets: [something], models: [plain]}]
  strip: {kind: prediction, title: Strip, pretrained: *models}
  cost: {kind: cost, title: Cost, pretrained: *models}
"""
KEPT = {
    "baselines/toy/sphere": {"scores.csv"},
    "finetune/toy/sphere/plain/none/standard/0": {"scores.csv"},
    "finetune/toy/sphere/plain/none/standard/1": {"scores.csv"},
    "pretrain/something/plain/0": {
        "card.md",
        "metrics.jsonl",
        "weights.json",
        "weights.safetensors",
    },
}


@pytest.fixture
def results(tmp_path):
    """Two runs of three, baselines, and a pre-trained model, each with files that stay behind."""
    root = tmp_path / "laptop"
    folders = [
        study.finetune(root, {0: [1], 9: [1]}, method="plain/none/standard", seed=seed)
        for seed in range(2)
    ]
    folders += [study.baselines(root, {"random": 0.0}), study.pretrain(root, "plain")]
    study.predict(root, "plain")
    for folder in folders:
        (folder / "config.yaml").write_text("{}\n")
        (folder / "episode.mp4").write_bytes(b"film")
        (folder / "timing.jsonl").write_text("")
    save_weights(folders[-1], {"x": torch.ones(3)}, {"kind": "action-free"})
    (folders[-1] / "card.md").write_text("# A model\n")
    (tmp_path / "study.yaml").write_text(STUDY)
    return root


def test_figures_and_models_are_complete_and_the_rest_stays_behind(results, tmp_path, caplog):
    caplog.set_level("INFO")
    out = tmp_path / "published/laptop"
    publish(results, tmp_path / "study.yaml", out, [results / "pretrain/something/plain/0"])
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    names = {f"{run}/{x}" for run, own in KEPT.items() for x in own | {"run.json", "config.yaml"}}
    assert found == names | {"study.yaml"}
    assert "4 runs, 1 models, 0.0 MB" in caplog.text
    assert "do not exist: 1" in caplog.text
    redraw(out, out / "study.yaml", tmp_path / "drawn")
    facts = json.loads((tmp_path / "drawn/figures/learning.json").read_text())
    assert facts["seeds"] == {
        "Plain WM, none (scratch) on toy/sphere": 2,
        "Random policy on toy/sphere": 2,
    }


def test_mistakes_copy_nothing(results, tmp_path):
    out, file = tmp_path / "published", tmp_path / "study.yaml"
    model = results / "pretrain/something/plain/0"
    with pytest.raises(UserError, match=r"is not in .*laptop"):
        publish(results, file, out, [tmp_path / "elsewhere"])
    (model / "card.md").unlink()
    with pytest.raises(UserError, match=r"card.md is missing: the run is not complete"):
        publish(results, file, out, [model])
    with (model / "weights.safetensors").open("ab") as weights:
        weights.write(b"x")
    with pytest.raises(UserError, match="is damaged: its sha256 is not the one"):
        publish(results, file, out, [model])
    with pytest.raises(UserError, match=r"none has no runs of .*study.yaml"):
        publish(tmp_path / "none", file, out, [])
    assert not out.exists()
    out.mkdir()
    with pytest.raises(UserError, match="published exists; delete it, or name another folder"):
        publish(results, file, out, [])
