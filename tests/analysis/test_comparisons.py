"""Registered comparisons: their table by hand, their answers and their figure."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import study
from scipy.stats import t

from cwm.analysis.draw import draw, tabulate
from cwm.analysis.provenance import FigureMeta
from cwm.analysis.scores import collect
from cwm.study_file import Arm, Comparison, Figure, finetune_runs

OURS, SCRATCH = Arm("contextwm", "something", seeds=3), Arm("contextwm", "none", seeds=3)


def asked(first, second, measure="area"):
    return Comparison("Sooner?", "toy", "sphere", first, second, measure)


def runs(root, arm, curves):
    method = f"{arm.model}/{arm.dataset}/{arm.variant}"
    curves = [{step: [value] for step, value in enumerate(curve)} for curve in curves]
    return [study.finetune(root, c, method=method, seed=s) for s, c in enumerate(curves)]


@pytest.fixture
def answer(tmp_path):
    """The table of some comparisons of the runs, its text, and the facts of its figure."""

    def answer(comparisons, folders):
        figure = Figure("comparisons", "Answers", comparisons=tuple(comparisons))
        scores, table = tmp_path / "s.csv", tmp_path / "t" / "answers"
        collect(folders, [], scores)
        tabulate(figure, scores, table)
        files = [table.with_suffix(".csv"), scores]
        draw(figure.kind, files, tmp_path / "f" / "answers", FigureMeta("Answers", "x", "c0ffee"))
        facts = json.loads((tmp_path / "f" / "answers.json").read_text())
        return pd.read_csv(files[0]), table.with_suffix(".md").read_text(), facts

    return answer


def test_table_by_hand(tmp_path, answer):
    """Areas 4, 5, 6 and 1, 2, 3: means 5 and 2, variances 1, standard error sqrt(2/3), df 4."""
    folders = runs(tmp_path, OURS, [[3, 5], [4, 6], [5, 7]])
    folders += runs(tmp_path, SCRATCH, [[0, 2], [1, 3], [2, 4]])
    table, text, facts = answer([asked(OURS, SCRATCH)], folders)
    row = table.iloc[0]
    error = (2 / 3) ** 0.5
    assert (row["n_first"], row["n_second"], row["difference"]) == (3, 3, 3)
    assert row["low"] == pytest.approx(3 - t.ppf(0.975, 4) * error)
    assert row["high"] == pytest.approx(3 + t.ppf(0.975, 4) * error)
    assert row["p"] == row["adjusted"] == pytest.approx(2 * t.sf(3 / error, 4))
    assert row["answer"] == "yes"
    assert "| Sooner? | yes | 3.00 [0.73, 5.27] | 0.021 | ContextWM, something (3) |" in text
    assert "Holm" in facts["details"]
    found = {
        "question": "Sooner?",
        "measure": "toy/sphere, area under the learning curve",
        "answer": "yes",
    }
    assert facts["answers"] == [found | {"difference": "3.00 [0.73, 5.27]"}]


def test_p_is_adjusted_for_the_number_of_questions(tmp_path, answer):
    """0.021 three times is 0.064: none of three equal questions is answered."""
    folders = runs(tmp_path, OURS, [[3, 5], [4, 6], [5, 7]])
    folders += runs(tmp_path, SCRATCH, [[0, 2], [1, 3], [2, 4]])
    table, *_ = answer([asked(OURS, SCRATCH)] * 3, folders)
    assert table["adjusted"].tolist() == pytest.approx([3 * table["p"][0]] * 3)
    assert set(table["answer"]) == {"inconclusive"}


def test_the_second_arm_can_be_larger(tmp_path, answer):
    folders = runs(tmp_path, SCRATCH, [[9, 9], [9.5, 9], [9, 9.5]])
    folders += runs(tmp_path, OURS, [[0, 0], [0, 0.5], [0.5, 0]])
    table, *_ = answer([asked(OURS, SCRATCH, "final")], folders)
    assert table["answer"].tolist() == ["no"]


def test_missing_runs_give_no_answer(tmp_path, answer):
    folders = runs(tmp_path, OURS, [[3, 5]] * 3)
    folders += runs(tmp_path, SCRATCH, [[0, 2], [0, 1]])
    plain = Arm("plain", "none", seeds=3)
    table, text, _ = answer([asked(OURS, SCRATCH), asked(OURS, plain)], folders)
    assert table["answer"].tolist() == ["runs missing"] * 2
    assert table["missing"].tolist() == [1, 3]
    assert "| n/a | n/a | ContextWM, something (3) | Plain WM, none (scratch) (0) |" in text


def test_seeds_beyond_the_registered_ones_are_ignored(tmp_path, answer):
    folders = runs(tmp_path, OURS, [[3, 5], [4, 6], [99, 99]])
    folders += runs(tmp_path, SCRATCH, [[0, 2], [1, 3]])
    two = (replace(arm, seeds=2) for arm in (OURS, SCRATCH))
    table, *_ = answer([asked(*two)], folders)
    assert table["difference"].tolist() == [3]


def test_a_figure_needs_the_runs_of_its_arms():
    more = replace(SCRATCH, seeds=4)
    figure = Figure("comparisons", "Answers", comparisons=(asked(OURS, more),))
    assert [tuple(run) for run in finetune_runs(figure)] == [
        ("toy", "sphere", "contextwm", dataset, "standard", seed)
        for dataset, seeds in (("none", 4), ("something", 3))
        for seed in range(seeds)
    ]


def test_kind_and_comparisons_belong_together(tmp_path, monkeypatch):
    from cwm import study as studies
    from cwm.infra.errors import UserError

    root = Path(__file__).parents[2]
    (tmp_path / "config").symlink_to(root / "config")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="that kind needs some"):
        studies._check(None, Figure("comparisons", "Answers"), "laptop")
