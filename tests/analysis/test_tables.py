from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import study

from cwm import cli
from cwm.analysis.scores import collect
from cwm.analysis.tables import make_table, number
from cwm.infra.errors import UserError

OURS, SCRATCH = "contextwm/something/standard", "contextwm/none/standard"


@pytest.fixture
def make(tmp_path):
    """Make a table of runs: the CSV as a frame, the Markdown and the LaTeX as text."""

    def make(kind, runs, baselines=()):
        collect(runs, list(baselines), tmp_path / "s.csv")
        make_table(kind, tmp_path / "s.csv", tmp_path / "t" / kind)
        stem = tmp_path / "t" / kind
        read = [stem.with_suffix(suffix).read_text() for suffix in (".md", ".tex")]
        return pd.read_csv(stem.with_suffix(".csv"), keep_default_na=False, na_values=""), *read

    return make


def test_curves_by_hand(tmp_path, make):
    """The mean of the seeds evaluated at each step: of 2 and 0, 6 and 2, then 9 alone."""
    runs = [
        study.finetune(tmp_path, {0: [1, 3], 100: [5, 7], 200: [9]}, seed=0),
        study.finetune(tmp_path, {0: [0, 0], 100: [2, 2]}, seed=1),
    ]
    table, text, _ = make("curves", runs, [study.baselines(tmp_path, {"random": 7.0})])
    agents = table[table["policy"] == "agent"]
    assert agents["step"].tolist() == [0, 100, 200]
    assert agents["progress"].tolist() == [0, 0.5, 1]
    assert agents["value"].tolist() == [1, 4, 9]
    assert agents["n"].tolist() == [2, 2, 1]
    assert agents["value_low"].tolist()[:2] == [0, 2]
    assert agents["value_high"].tolist()[:2] == [2, 6]
    assert np.isnan(agents["value_low"].iloc[2])
    level = table[table["policy"] == "random"].iloc[0]
    assert (level["value"], level["n"]) == (7, 2)
    assert np.isnan(level["step"])
    assert "| toy/sphere | ContextWM, something | return | 9.00 | 1 |" in text
    assert "toy/sphere: seed 1 of ContextWM, something ends at step 100 of 200." in text
    assert "Random policy 7.00" in text


def test_domains_by_hand(tmp_path, make):
    runs = [
        study.finetune(tmp_path, {0: [0], 1: [2], 2: [4]}, seed=0, method=OURS),
        study.finetune(tmp_path, {0: [0], 1: [6], 2: [6]}, seed=1, method=OURS),
        study.finetune(tmp_path, {0: [0], 1: [1], 2: [1]}, seed=0, method=SCRATCH),
        study.finetune(tmp_path, {0: [3], 1: [4], 2: [6]}, seed=1, method=SCRATCH),
        study.finetune(tmp_path, {0: [1], 1: [1], 2: [2]}, seed=0, method="dreamer/none/standard"),
    ]
    table, text, latex = make("domains", runs)
    table = table.set_index("method")
    ours, scratch = table.loc["ContextWM, something"], table.loc["ContextWM, none (scratch)"]
    assert (ours["value"], ours["value_low"], ours["value_high"]) == (4.5, 3, 6)
    assert ours["auc"] == pytest.approx((2 + 4) / 2)
    assert ours["better"] == 0.75  # 3 beats 1 and loses to 5, 6 beats both
    assert (scratch["value"], scratch["n"]) == (3, 2)
    assert np.isnan(scratch["better"])
    assert "| Task | Pre-trained on | ContextWM | DreamerV2 |" in text
    assert "| toy/sphere | something | 4.50 [3.00, 6.00]; AUC 3.00" in text
    assert "| toy/sphere | none (scratch) | 3.00 [1.00, 5.00]; AUC 2.50" in text
    assert "| 1.50; AUC 1.33; n 1 |" in text
    assert r"toy/sphere & something & 4.50 [3.00, 6.00]" in latex
    assert "% Final score by pre-training data." in latex
    assert latex.count(r" \\") == 3


def test_over_tasks_by_hand(tmp_path, make):
    """Returns become (x - 10) / (30 - 10), successes stay; each task weighs the same."""
    runs = []
    for method, seeds, success in ((OURS, [20, 30], 1), (SCRATCH, [10, 20], 0)):
        runs += [
            study.finetune(tmp_path, {0: [10], 8: [x]}, seed=i, method=method)
            for i, x in enumerate(seeds)
        ]
        runs += [
            study.finetune(
                tmp_path, {0: [0], 4: [success]}, task="m/r", seed=i, method=method, success=True
            )
            for i in range(2)
        ]
    runs.append(study.finetune(tmp_path, {0: [3], 8: [3]}, task="toy/still", method=OURS))
    runs.append(study.finetune(tmp_path, {0: [3], 8: [3]}, task="toy/still", method=SCRATCH))
    runs.append(study.finetune(tmp_path, {0: [9], 8: [9]}, method="dreamer/none/standard"))
    levels = [study.baselines(tmp_path, {"random": 10.0, "constant": 20.0})]
    table, text, _ = make("curves", runs, levels)
    every = table[table["task"] == "all"]
    ends = every[every["progress"] == 1].set_index("method")["value"].to_dict()
    # one of 0.5, 1, 1, 1 and one of 0, 0.5, 0, 0 is trimmed at each end
    assert ends == {"ContextWM, something": 1.0, "ContextWM, none (scratch)": 0.0}
    assert set(every["progress"]) == {0, 1}
    assert "The average over tasks omits toy/still" in text
    assert "DreamerV2" not in set(every["method"])  # it ran on one of the tasks only


def test_few_and_missing_runs_are_caveats(tmp_path, make):
    runs = [study.finetune(tmp_path, {0: [2], 3: [2], 5: [2]}, seed=i) for i in (0, 2, 3)]
    runs += [study.finetune(tmp_path, {0: [i], 3: [i]}, seed=i, method=SCRATCH) for i in range(4)]
    runs.append(study.finetune(tmp_path, {0: [2], 5: [2]}, method="plain/none/no-bonus"))
    table, text, latex = make("domains", runs)
    for caveat in (
        "one seed, so no confidence interval, for Plain WM, none (scratch), no bonus.",
        "fewer than 5 seeds, so a rough confidence interval, for ContextWM, something; ContextWM,",
        "seed 1 of ContextWM, something is missing.",
        "seed 1, 2, 3 of Plain WM, none (scratch), no bonus is missing.",
        "seed 3 of ContextWM, none (scratch) ends at step 3 of 5",
        "Scale: laptop, too small for claims about the paper.",
    ):
        assert caveat in text
        assert caveat in latex
    row = table[table["method"] == "ContextWM, something"].iloc[0]
    assert (row["value"], row["value_low"], row["value_high"], row["n"]) == (2, 2, 2, 3)


def test_a_single_seed_on_one_task_gives_no_interval_over_all_tasks(tmp_path, make):
    runs = [study.finetune(tmp_path, {0: [i]}, seed=i, task="m/r", success=True) for i in (0, 1)]
    runs.append(study.finetune(tmp_path, {0: [1]}, task="m/s", success=True))
    table, *_ = make("domains", runs)
    every = table[table["task"] == "all"].iloc[0]
    assert (every["value"], every["n"]) == (0.75, 3)
    assert np.isnan(every["value_low"])


def test_special_characters_in_names_are_escaped(tmp_path, make):
    method = "a|b_&%\\/none/standard"
    runs = [study.finetune(tmp_path, {0: [1]}, method=method)]
    table, text, latex = make("curves", runs)
    assert table["model"].tolist() == ["a|b_&%\\"]
    assert r"| a\|b_&%\, none (scratch) |" in text
    assert r"& a|b\_\&\%\textbackslash , none (scratch) &" in latex


def test_decimals_suit_the_size_of_a_number():
    assert number(0.12345, np.nan, np.nan) == "0.12"
    assert number(12.345, 1.0, 20.0) == "12.3 [1.0, 20.0]"
    assert number(123.45, 99.6, 150.2) == "123 [100, 150]"


def test_unknown_kind_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="did you mean: curves"):
        make_table("curve", tmp_path / "s.csv", tmp_path / "t")


def test_table_needs_one_file_of_scores(tmp_path):
    smoke = Path("config/study/smoke.yaml")
    with pytest.raises(UserError, match="learning_curves needs one file of scores, not 2"):
        cli.table("learning_curves", [tmp_path, tmp_path], smoke, tmp_path / "t")
