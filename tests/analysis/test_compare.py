import pytest
import study

from cwm.analysis.compare import compare
from cwm.analysis.scores import collect
from cwm.infra.errors import UserError

OURS, SCRATCH = "contextwm/something/standard", "contextwm/none/standard"


def cells(text, *beginning):
    """The cells of the line that begins so."""
    rows = [[cell.strip() for cell in row.split("  ") if cell] for row in text.splitlines()]
    (found,) = [row for row in rows if row[: len(beginning)] == [*beginning]]
    return found[len(beginning) :]


@pytest.fixture
def root(tmp_path):
    """Returns 3 and 5 against 1 and 3 on one task, successes 1 and 1 against 0 on another."""
    for i, (ours, scratch) in enumerate([(3, 1), (5, 3)]):
        study.finetune(tmp_path, {0: [0], 8: [ours], 16: [ours]}, seed=i, method=OURS)
        study.finetune(tmp_path, {0: [0], 8: [scratch], 16: [scratch]}, seed=i, method=SCRATCH)
        curve = {0: [0], 4: [1], 8: [1]}
        study.finetune(tmp_path, curve, seed=i, task="m/r", success=True, method=OURS)
    curve = {0: [0], 4: [0], 8: [0]}
    study.finetune(tmp_path, curve, task="m/r", success=True, method=SCRATCH)
    study.finetune(tmp_path, {0: [1]}, task="toy/blob", method=OURS)
    study.baselines(tmp_path, {"random": 1.0})
    return tmp_path


def globs(root):
    return [f"{root}/finetune/*/*/contextwm/{dataset}" for dataset in ("something", "none")]


def test_values_by_hand(root):
    text = compare(*globs(root))
    assert "5 runs of ContextWM, something" in text
    ours, scratch = "4.00 [3.00, 5.00]", "2.00 [1.00, 3.00]"
    difference, better = "2.00 [-4.08, 8.08]", "0.88 [0.50, 1.00]"
    assert cells(text, "toy/sphere", "final return") == [
        ours, scratch, difference, better, "2 and 2"
    ]  # fmt: skip
    assert cells(text, "toy/sphere", "AUC")[:2] == ["2.67 [2.00, 3.33]", "1.33 [0.67, 2.00]"]
    assert cells(text, "m/r", "final success") == [
        "1.00 [1.00, 1.00]", "0.00", "1.00", "1.00", "2 and 1"
    ]  # fmt: skip
    # Scaled returns (x - 1) / (5 - 1) and successes: A has 0.5, 1, 1, 1; B has 0, 0.5, 0.
    averaged = cells(text, "IQM, 2 tasks", "final score")
    assert averaged[0].startswith("1.00 [")
    assert averaged[3:] == ["0.94", "4 and 3"]  # mean of 0.875 and 1


def test_caveats_name_missing_and_few_runs(root):
    text = compare(*globs(root))
    for caveat in (
        "toy/blob is in A only and is left out.",
        "m/r: seed 1 in A only.",
        "m/r, B: one seed, so no confidence interval, for ContextWM, none (scratch).",
        "fewer than 5 seeds",
        "too small for claims",
        "the random policy's mean return",
    ):
        assert caveat in text


def test_a_scores_csv_gives_the_same_numbers_as_its_folders(root):
    tables = []
    for dataset in ("something", "none"):
        runs = [path.parent for path in sorted(root.glob(f"finetune/**/{dataset}/**/scores.csv"))]
        collect(runs, [root / "baselines/toy/sphere"], root / f"{dataset}.csv")
        tables.append(f"{root}/{dataset}.csv")
    assert compare(*tables).splitlines()[2:] == compare(*globs(root)).splitlines()[2:]
    with pytest.raises(UserError, match=r"none.csv is in both sets"):
        compare(tables[1], tables[1])


def test_tasks_whose_returns_cannot_be_scaled_are_not_averaged(root):
    (root / "baselines/toy/sphere/scores.csv").unlink()
    text = compare(*globs(root))
    assert "IQM," not in text
    assert cells(text, "toy/sphere", "final return")[0] == "4.00 [3.00, 5.00]"


def test_unequal_training_lengths_are_noted(tmp_path):
    study.finetune(tmp_path, {0: [1], 8: [2], 16: [3]}, method=OURS)
    study.finetune(tmp_path, {0: [1], 8: [2]}, method=SCRATCH)
    assert "toy/sphere: A ends at step 16, B at step 8." in compare(*globs(tmp_path))


def test_incomparable_sets_are_refused(root):
    ours, scratch = globs(root)
    for first, second, message in [
        (ours, ours, "is in both sets"),
        (f"{root}/nowhere", scratch, "no runs in .*nowhere"),
        (f"{root}/baselines", scratch, "no runs in .*baselines"),
        (f"{root}/finetune/toy", f"{root}/finetune/m", "no task is in both"),
    ]:
        with pytest.raises(UserError, match=message):
            compare(first, second)
    study.finetune(root, {0: [1]}, task="m/r", method="plain/none/standard")
    with pytest.raises(UserError, match="m/r: only one of the two sets reports success"):
        compare(ours, f"{root}/finetune/*/*/plain")


def test_a_folder_whose_name_looks_like_a_glob_takes_precedence(root):
    """`[old]` is also a glob for one of the letters o, l and d."""
    (root / "finetune").rename(root / "runs [old]")
    ours, none = (f"{root}/runs [old]/toy/sphere/contextwm/{x}" for x in ("something", "none"))
    text = compare(ours, none)
    assert f"{ours}: 2 runs of ContextWM, something" in text
    assert f"{none}: 2 runs of ContextWM, none (scratch)" in text


def test_linked_runs_are_counted_once(root):
    runs = root / "finetune/toy/sphere/contextwm"
    (root / "chosen").mkdir()
    (root / "chosen/ours").symlink_to(runs / "something")
    (root / "chosen/again").symlink_to(runs / "something")
    (root / "chosen/cycle").symlink_to(root / "chosen")
    (root / "other").symlink_to(runs / "none")
    text = compare(f"{root}/chosen", f"{root}/other")
    assert "chosen: 2 runs of ContextWM, something" in text
    assert "other: 2 runs of ContextWM, none (scratch)" in text
