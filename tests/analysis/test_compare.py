"""`cwm compare`: numbers worked by hand, and thin or broken sets of runs."""

import pytest
import study
from typer.testing import CliRunner

from cwm.analysis.compare import compare
from cwm.analysis.scores import collect
from cwm.infra.errors import UserError

OURS, SCRATCH = "contextwm/something/standard", "contextwm/none/standard"


def line(text, *beginning):
    """The cells of the line that begins so."""
    rows = [[cell.strip() for cell in row.split("  ") if cell] for row in text.splitlines()]
    (found,) = [row for row in rows if row[: len(beginning)] == [*beginning]]
    return found


@pytest.fixture
def root(tmp_path):
    """On a task of returns 3 and 5 against 1 and 3, on one of successes 1, 1 against 0."""
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


def both(root):
    return [f"{root}/finetune/*/*/contextwm/{dataset}" for dataset in ("something", "none")]


def test_two_sets_by_hand(root):
    text = compare(*both(root))
    assert "A: " in text
    assert "5 runs of ContextWM, something" in text
    final = line(text, "toy/sphere", "final return")
    ours, scratch = "4.00 [3.00, 5.00]", "2.00 [1.00, 3.00]"
    assert final[2:] == [ours, scratch, "2.00 [0.00, 4.00]", "0.88 [0.50, 1.00]", "2 and 2"]
    area = line(text, "toy/sphere", "AUC")
    assert area[2:4] == ["2.67 [2.00, 3.33]", "1.33 [0.67, 2.00]"]
    final = line(text, "m/r", "final success")
    assert final[2:] == ["1.00 [1.00, 1.00]", "0.00", "1.00", "1.00", "2 and 1"]
    # returns become (x - 1) / (5 - 1): of 0.5, 1, 1, 1 and of 0, 0.5, 0 one or none is cut
    final = line(text, "IQM, 2 tasks", "final score")
    assert final[2].startswith("1.00 [")
    assert final[5:] == ["0.94", "4 and 3"]  # of 0.875 and 1
    for said in (
        "Only A has toy/blob, which is left out.",
        "m/r: seed 1 in A only.",
        "m/r, B: one seed, so no interval, for ContextWM, none (scratch).",
        "m/r, A: all seeds end alike, so the interval has no width",
        "fewer than 5 seeds",
        "too small for claims",
        "the random policy's mean return",
    ):
        assert said in text


def test_one_task_is_compared_in_its_own_unit(root):
    text = compare(*(each.replace("*/*", "toy/sphere") for each in both(root)))
    assert line(text, "IQM, 1 task", "final return")[2:4] == [
        "4.00 [3.00, 5.00]",
        "2.00 [1.00, 3.00]",
    ]
    assert "(B - R)" not in text


def test_tables_give_what_folders_give(root):
    runs = [path.parent for path in sorted(root.glob("finetune/**/scores.csv"))]
    collect(runs, [root / "baselines/toy/sphere"], root / "s.csv")
    ours, scratch = (f"{root}/s.csv:*/contextwm/{name}/*" for name in ("something", "none"))
    numbers = compare(ours, scratch).splitlines()[2:]
    assert numbers == compare(*both(root)).splitlines()[2:]
    with pytest.raises(UserError, match=r"contextwm/none/standard of .*s.csv is in both sets"):
        compare(scratch, scratch)
    with pytest.raises(UserError, match="no runs in"):
        compare(f"{root}/s.csv:*/dreamer/*", scratch)


def test_returns_without_a_scale_are_left_out_of_the_mean(root):
    (root / "baselines/toy/sphere/scores.csv").unlink()
    text = compare(*both(root))
    assert line(text, "IQM, 1 task", "final score")[2] == "1.00 [1.00, 1.00]"
    assert "toy/sphere is not in the IQM: its returns have no scale" in text


def test_runs_of_unequal_length_are_told(tmp_path):
    study.finetune(tmp_path, {0: [1], 8: [2], 16: [3]}, method=OURS)
    study.finetune(tmp_path, {0: [1], 8: [2]}, method=SCRATCH)
    assert "toy/sphere: A ends at step 16, B at step 8." in compare(*both(tmp_path))


def test_what_cannot_be_compared_is_refused(root):
    ours, scratch = both(root)
    for first, second, said in [
        (ours, ours, "is in both sets"),
        (f"{root}/nowhere", scratch, "no runs in .*nowhere"),
        (f"{root}/baselines", scratch, "no runs in .*baselines"),
        (f"{root}/finetune/toy", f"{root}/finetune/m", "no task is in both"),
    ]:
        with pytest.raises(UserError, match=said):
            compare(first, second)
    study.finetune(root, {0: [1]}, task="m/r", method="plain/none/standard")
    with pytest.raises(UserError, match="m/r: only one of the two sets reports success"):
        compare(ours, f"{root}/finetune/*/*/plain")


def test_the_command_prints_it(root):
    from cwm.cli import app

    done = CliRunner().invoke(app, ["compare", *both(root)])
    assert done.exit_code == 0
    assert "P(A > B)" in done.stdout


def test_folder_of_a_name_that_is_a_pattern_is_read_as_it_is(root):
    """`[old]` is also the pattern of one letter of o, l and d."""
    runs = root / "finetune"
    runs.rename(root / "runs [old]")
    ours, none = (f"{root}/runs [old]/toy/sphere/contextwm/{x}" for x in ("something", "none"))
    text = compare(ours, none)
    assert f"{ours}: 2 runs of ContextWM, something" in text
    assert f"{none}: 2 runs of ContextWM, none (scratch)" in text


def test_linked_runs_are_compared_once(root):
    runs = root / "finetune/toy/sphere/contextwm"
    (root / "chosen").mkdir()
    (root / "chosen/ours").symlink_to(runs / "something")
    (root / "chosen/again").symlink_to(runs / "something")
    (root / "chosen/cycle").symlink_to(root / "chosen")
    (root / "other").symlink_to(runs / "none")
    text = compare(f"{root}/chosen", f"{root}/other")
    assert "chosen: 2 runs of ContextWM, something" in text
    assert "other: 2 runs of ContextWM, none (scratch)" in text
