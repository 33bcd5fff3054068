"""Model cards are written from the files of a run."""

import json
from pathlib import Path

from cwm.commands.run_spec import describe_dataset
from cwm.infra.model_card import model_card

ROOT = Path(__file__).parents[2]
RUN = {"key": "c0ffee", "inputs": {"clips": "ab" * 32}, "command": "cwm x", "commit": "1234"}


def facts(folder, **run):
    data = describe_dataset(run["dataset"], run["scale"])
    lines = model_card(folder, RUN | run, data).splitlines()
    return lines[0], dict(line[4:].split("**: ", 1) for line in lines if line.startswith("- "))


def test_card_of_a_pretrained_model(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = [{"step": 10, "train/kl": 3.0}, {"step": 20, "heldout/kl": 2.5, "train/kl": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    names = {"stage": "pretrain", "model": "plain", "dataset": "mixture", "seed": 1}
    title, told = facts(tmp_path, scale="laptop", **names)
    assert title == "# model plain, dataset mixture, seed 1"
    assert told["Data"].count("100 generated clips") == 3  # one for each member
    assert told["Measured"] == "heldout/kl 2.5"
    assert told["Inputs (sha256)"] == "clips abababababab"
    assert "says nothing about the paper" in told["Limits"]
    _, told = facts(tmp_path, scale="paper", **names)
    assert "may not be passed on" in told["Data"]  # the licence of Something-Something
    _, told = facts(tmp_path, scale="paper", **names | {"dataset": "mine"})
    assert told["Data"] == "mine: no settings file of this name in config/dataset"


def test_card_of_an_agent(tmp_path):
    heading = "step,episode,return,success,length,split\n"
    rows = "1,0,9,1,5,train\n5,0,1,0,5,eval\n8,0,2,0,5,eval\n8,1,4,1,5,eval\n"
    (tmp_path / "scores.csv").write_text(heading + rows)
    _, told = facts(tmp_path, stage="finetune", dataset="none", scale="laptop")
    assert told["Data"] == "no videos: learned from scratch"
    returns, success = told["Measured"].split("; ")
    assert returns == "mean return of 2 episodes at step 8: 3"
    assert success == "mean success of 2 episodes at step 8: 0.5"
