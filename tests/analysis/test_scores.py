import numpy as np
import pandas as pd
import pytest
import study

from cwm.analysis import scores
from cwm.analysis.normalise import add_scaled, comparable_tasks
from cwm.infra.errors import UserError


def test_collect_keeps_every_episode(tmp_path):
    long = study.finetune(tmp_path, {0: [0.1, 0.2], 100: [1 / 3, 7]}, seed=0)
    short = study.finetune(tmp_path, {0: [5, 6]}, seed=2, method="plain/none/no-bonus")
    levels = study.baselines(tmp_path, {"random": 7.0, "constant": 8.0})
    scores.collect([long, short / "scores.csv"], [levels], tmp_path / "out" / "s.csv")

    tidy = scores.load(tmp_path / "out" / "s.csv")
    assert list(tidy.columns) == scores.COLUMNS
    agents = tidy[tidy["policy"] == "agent"]
    evaluations = agents[agents["split"] == "eval"].groupby("seed").size()
    assert evaluations.to_dict() == {0: 4, 2: 2}
    assert (agents["split"] == "train").sum() == 2
    assert set(agents["dataset"]) == {"something", "none"}
    assert 1 / 3 in set(agents["return"])  # every digit survives
    assert agents["success"].isna().all()
    policies = tidy[tidy["policy"] != "agent"]
    assert policies.groupby("policy")["return"].mean().to_dict() == {"random": 7, "constant": 8}
    assert policies["step"].isna().all()
    assert (policies["model"] == "").all()


def test_points_average_episodes_and_prefer_success(tmp_path):
    returns = study.finetune(tmp_path, {50: [5], 0: [1, 3]})
    successes = study.finetune(tmp_path, {0: [1, 0, 0, 0]}, task="metaworld/reach", success=True)
    scores.collect([returns, successes], [], tmp_path / "s.csv")
    points = scores.points(scores.load(tmp_path / "s.csv"))
    found = points[["task", "step", "measure", "score"]].to_numpy().tolist()
    assert found == [
        ["reach", 0, "success", 0.25],
        ["sphere", 0, "return", 2],
        ["sphere", 50, "return", 5],
    ]


def broken(folder, name, text):
    (folder / name).write_text(text)
    return folder


HEAD = "step,episode,return,success,length,split\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a CSV"),
        (HEAD, "no rows"),
        ("step,return\n1,2\n", "lacks the columns split, episode"),
        (HEAD + "1,0,2.0,,10,train\n", "no evaluation"),
        (HEAD + "1,0,high,,10,eval\n", "column return"),
        (HEAD + "1,0,,,10,eval\n", "column return: empty"),
        (HEAD + "1,0,nan,,10,eval\n", "column return: empty or not finite"),
        (HEAD + "1,0,2.0,,10,eval,extra,fields\n1,2\n", "scores.csv"),
    ],
)
def test_broken_scores_are_named(tmp_path, text, message):
    folder = broken(study.finetune(tmp_path, {0: [1]}), "scores.csv", text)
    with pytest.raises(UserError, match=message) as error:
        scores.collect([folder], [], tmp_path / "s.csv")
    assert str(folder / "scores.csv") in str(error.value)
    assert not (tmp_path / "s.csv").exists()


def test_a_table_without_evaluations_is_named(tmp_path):
    path = tmp_path / "s.csv"
    scores.collect([study.finetune(tmp_path, {0: [1]})], [], path)
    broken(tmp_path, "s.csv", path.read_text().replace("eval", "train"))
    with pytest.raises(UserError, match=r"s.csv has no evaluation"):
        scores.load(path)


def test_missing_and_invalid_runs_are_named(tmp_path):
    run = study.finetune(tmp_path, {0: [1]})
    out = tmp_path / "s.csv"
    with pytest.raises(UserError, match="no runs"):
        scores.collect([], [], out)
    with pytest.raises(UserError, match="hold scores of the same run"):
        scores.collect([run, run], [], out)
    with pytest.raises(UserError, match=r"no file or folder .*nowhere"):
        scores.collect([tmp_path / "nowhere"], [], out)
    with pytest.raises(UserError, match=r"cannot read .*finetune/run.json"):
        scores.collect([tmp_path / "finetune"], [], out)
    with pytest.raises(UserError, match="lacks suite, task"):
        scores.collect([study.pretrain(tmp_path, "plain")], [], out)
    with pytest.raises(UserError, match="different scales cannot be mixed: laptop, paper"):
        scores.collect([run, study.finetune(tmp_path, {0: [1]}, seed=1, scale="paper")], [], out)
    with pytest.raises(UserError, match="did you mean: random"):
        scores.collect([run], [study.baselines(tmp_path, {"randon": 1.0})], out)
    with pytest.raises(UserError, match=r"run.json is not JSON"):
        scores.collect([broken(run, "run.json", "{")], [], out)
    with pytest.raises(UserError, match=r"run.json: content is"):
        scores.collect([broken(run, "run.json", "[]")], [], out)
    (run / "scores.csv").unlink()
    study.write_json(run / "run.json", study.identity(suite="a"))
    with pytest.raises(UserError, match="lacks task, model"):
        scores.collect([run], [], out)


def test_partly_reported_success_is_refused(tmp_path):
    first = study.finetune(tmp_path, {0: [1]}, success=True)
    second = study.finetune(tmp_path, {0: [1]}, seed=1)
    scores.collect([first, second], [], tmp_path / "s.csv")
    with pytest.raises(UserError, match="only some episodes of toy/sphere report success"):
        scores.points(scores.load(tmp_path / "s.csv"))


def test_scaled_scores_by_hand():
    def points(task, policy, measure, values):
        names = {"suite": "s", "task": task, "policy": policy, "measure": measure}
        return pd.DataFrame({"score": values}).assign(**names)

    parts = [
        points("a", "agent", "return", [10.0, 30.0]),
        points("a", "random", "return", [8.0, 12.0]),
        points("a", "constant", "return", [20.0]),
        points("b", "agent", "success", [0.25]),
        points("level", "agent", "return", [3.0, 2.0]),
        points("level", "random", "return", [3.0]),
        points("unknown", "agent", "return", [3.0]),
    ]
    scaled = add_scaled(pd.concat(parts)).set_index(["task", "policy"])["scaled"]
    np.testing.assert_allclose(scaled["a", "agent"], [0, 1])
    np.testing.assert_allclose(scaled["a", "constant"], [0.5])
    np.testing.assert_allclose(scaled["b", "agent"], [0.25])
    assert scaled["level"].isna().all()
    assert scaled["unknown"].isna().all()
    assert comparable_tasks(add_scaled(pd.concat(parts))) == [("s", "a"), ("s", "b")]
