import shutil

import pytest
import study

from cwm.analysis.runs import read_arrays, read_metrics, runs_by_seed, single_runs
from cwm.infra.errors import UserError


def test_runs_are_grouped_by_method_in_legend_order(tmp_path):
    runs = [
        study.pretrain(tmp_path, model, seed=seed)
        for model in ("plain", "contextwm")
        for seed in (1, 0)
    ]
    found = runs_by_seed([run / "metrics.jsonl" for run in runs])
    assert [method.model for method in found] == ["contextwm", "plain"]
    assert [list(seeds) for seeds in found.values()] == [[0, 1], [0, 1]]
    with pytest.raises(UserError, match="2 seeds of ContextWM, something; this figure shows one"):
        single_runs(runs)


def test_no_runs_and_duplicates_are_refused(tmp_path):
    run = study.pretrain(tmp_path, "plain")
    twin = shutil.copytree(run, tmp_path / "twin")
    with pytest.raises(UserError, match="are both Plain WM, something, seed 0"):
        runs_by_seed([run, twin])
    with pytest.raises(UserError, match="no runs to draw"):
        runs_by_seed([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"step": 1, "train/kl": 2}\n', "has no line with train/image"),
        ('{"step": 1, "train/kl', "is not JSON lines of numbers"),
        ('{"step": "one"}', "is not JSON lines of numbers"),
    ],
)
def test_broken_metrics_are_named(tmp_path, text, message):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=f"metrics.jsonl {message}"):
        read_metrics(tmp_path, ["train/image"])


def test_broken_arrays_are_named(tmp_path):
    path = study.predict(tmp_path, "plain") / "predictions.npz"
    with pytest.raises(UserError, match=r"predictions.npz lacks recomposed"):
        read_arrays(path, "truth", "recomposed")
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"predictions.npz is not a valid .npz file"):
        read_arrays(path)
