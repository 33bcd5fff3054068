"""How the workflow reads its command line, reports errors, and decides what to run again."""

import os
import shlex
import shutil

import pytest

from cwm.commands.own import check_folder, listing_hash, typed_values
from cwm.infra.errors import UserError

RULES = """
rule copy_large:
    input: "large.bin"
    output: "copy.bin"
    shell: "cp {input} {output}"

rule full_log:
    output: touch("full-log")
    shell: "echo done 2>&1 | tee /dev/full"

rule failed_command:
    output: touch("failed-command")
    shell: "(echo failed; exit 3) 2>&1 | tee /dev/full"
"""
# A user without a name, as in some containers.
NO_NAME = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
NAMES = ("USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME")
SMOKE = ("--config", "scale=smoke")


@pytest.fixture(scope="module")
def shared(copy_project, tmp_path_factory):
    """One project for all tests of this file, with small rules and scales of its own."""
    folder = copy_project(tmp_path_factory.mktemp("shared"))
    with (folder / "Snakefile").open("a") as file:
        file.write(RULES)
    for kind in ("scale", "study"):
        for name in ("007", "broken"):
            shutil.copy(folder / f"config/{kind}/smoke.yaml", folder / f"config/{kind}/{name}.yaml")
    broken = folder / "config/scale/broken.yaml"
    broken.write_text(broken.read_text().replace("prefill", "prefil"))
    (folder / "large.bin").write_bytes(bytes(5_000_001))  # Snakemake's default limit is 1,000,000
    (folder / "sitecustomize.py").write_text(NO_NAME)
    return folder


@pytest.fixture(scope="module")
def done(shared, snakemake):
    """The small rules, run by a user without a name or a writable home."""
    unset = dict.fromkeys(NAMES)
    path = os.pathsep.join([str(shared), os.environ.get("PYTHONPATH", "")])
    words = (*SMOKE, "--", "copy.bin", "full-log", "failed-command", "results/mlflow/ready")
    return snakemake(shared, *words, HOME="/proc/none", PYTHONPATH=path, **unset)


def test_a_user_without_a_name_whose_home_is_read_only_can_run_the_workflow(shared, done):
    assert "MLflow at" not in done.stderr + done.stdout
    assert (shared / "results/mlflow/ready").exists(), done.stderr


def test_a_full_log_disk_changes_no_exit_status(shared, done):
    assert "No space left" in done.stderr
    assert done.returncode == 1
    assert (shared / "full-log").exists(), done.stderr
    assert not (shared / "failed-command").exists()


def test_a_touched_large_input_re_runs_nothing_and_an_edited_one_does(shared, done, snakemake):
    target = ("--dry-run", *SMOKE, "--", "copy.bin")
    large = shared / "large.bin"
    large.touch()
    again = snakemake(shared, *target)
    assert "Nothing to be done" in again.stdout + again.stderr, again.stderr
    large.write_bytes(bytes(5_000_000) + b"1")
    assert "rule copy_large" in snakemake(shared, *target).stdout


def test_names_on_the_command_line_reach_the_jobs_as_typed(shared, snakemake):
    name = "{x}: [1] it's 12\" $HOME #32 1=2"
    words = (
        "--config",
        "scale=007",
        f"videos={name}",
        "--",
        "pretrain_videos",
        "fig_domain_ablation",
    )
    planned = snakemake(shared, "--dry-run", "--printshellcmds", *words)
    assert "results/007/figures/domain_ablation.pdf" in planned.stdout, planned.stderr
    (line,) = [x for x in planned.stdout.splitlines() if "cwm collect videos" in x]
    arguments = shlex.split(line.partition("cwm collect")[2])
    assert arguments[arguments.index("--folder") + 1] == name


def test_training_on_the_first_parts_waits_for_no_other_part(shared, snakemake):
    early = "dataset: {members: [{dataset: something, first_parts: 1}]}"
    (shared / "config/dataset/something-early.yaml").write_text(early)
    weights = "results/smoke/pretrain/something-early/contextwm/0/weights.json"
    planned = snakemake(shared, "--dry-run", "--printshellcmds", *SMOKE, "--", weights).stdout
    assert "results/smoke/clips/something/first-1/store.json" in planned
    assert "--set dataset.only_parts='[0]'" in planned
    assert "part-000/part.parquet" in planned
    assert "part-001" not in planned


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--config", "scale=broken", "--", "all"),
            "config/scale/broken.yaml: unknown setting 'finetune.prefil'; did you mean: "
            "finetune.prefill",
        ),
        ((*SMOKE, "--", "fig_predicton"), "unknown figure 'predicton'; did you mean: prediction"),
        (
            (*SMOKE, os.fsdecode(b"videos=caf\xe9"), "--", "pretrain_videos"),
            r"caf\udce9 is not valid UTF-8; rename the file or folder",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(shared, snakemake, words, message):
    done = snakemake(shared, *words)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "cwm: " in line]
    assert line.startswith("cwm: ")
    assert message in line
    assert "Traceback" not in done.stderr
    assert "rule" not in done.stdout


PLAIN = ("2024_05_01", "007", "1e3", "number #32", "true", "null", "~", "{x}", "a: b", "[x]", "-v")


@pytest.mark.parametrize("name", [*PLAIN, "it's", '12"', "$HOME", "nan", "1=2"])
def test_a_folder_on_the_command_line_stays_what_was_typed(name):
    values = {"scale": "smoke", "videos": name}
    assert typed_values(["scale=smoke", f"videos={name}", "jobs_per_gpu=2"]) == values
    assert typed_values([f"videos='{name}'"]) == {"videos": name}
    assert check_folder(name) == name


def test_a_folder_that_yaml_read_as_a_number_must_be_quoted():
    with pytest.raises(UserError, match="videos is 20240501, not a folder; write it in quotes"):
        check_folder(2024_05_01)


def test_listing_hash_changes_with_files_and_not_with_times(tmp_path):
    file = tmp_path / os.fsdecode(b"videos/caf\xe9.mp4")
    file.parent.mkdir()
    file.write_bytes(b"one")
    before = listing_hash(str(tmp_path))
    file.touch()
    assert listing_hash(str(tmp_path)) == before
    file.write_bytes(b"longer")
    changed = listing_hash(str(tmp_path))
    (file.parent / "two.mp4").write_bytes(b"two")
    assert len({before, changed, listing_hash(str(tmp_path))}) == 3
