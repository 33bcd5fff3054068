"""What a study is made of, and what a person is told who mistyped a name in it."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from cwm import study
from cwm.infra.errors import UserError

ROOT = Path(__file__).parents[2]

FIGURE = """figures:
  curves:
    kind: curves
    title: Curves
    runs:
      - {suite: toy, tasks: [sphere], models: [plain, dreamer], datasets: [none], seeds: 2}
      - {suite: toy, tasks: [sphere], models: [plain], datasets: [none, something]}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of what Snakemake reads, to be edited."""
    for name in ("config", "workflow", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    (tmp_path / "config/study/smoke.yaml").write_text(FIGURE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_made_once_however_often_it_is_shown(project):
    runs = study.finetune_runs(study.load("smoke").figures["curves"])
    assert [tuple(run)[2:] for run in runs] == [
        ("dreamer", "none", "standard", 0),
        ("dreamer", "none", "standard", 1),
        ("plain", "none", "standard", 0),
        ("plain", "none", "standard", 1),
        ("plain", "something", "standard", 0),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[sphere]", "[spere]", r"figure curves: unknown task 'spere'; did you mean: sphere"),
        ("suite: toy", "suite: tyo", r"unknown suite 'tyo'; did you mean: toy"),
        ("dreamer]", "dreamr]", r"unknown model 'dreamr'; did you mean: dreamer"),
        ("something]", "somthing]", r"unknown dataset 'somthing'; did you mean: something"),
        ("kind: curves", "kind: curve", r"kind is 'curve'"),
        ("seeds: 2", "seed: 2", r"unknown key figures.curves.runs.0.seed"),
    ],
)
def test_mistakes_are_found_before_any_job(project, old, new, message):
    path = project / "config/study/smoke.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        study.load("smoke")


def test_the_authors_models_need_videos_only_to_be_shown(project):
    path = project / "config/study/smoke.yaml"
    path.write_text(path.read_text().replace("something]", "official-mixture]"))
    runs = study.finetune_runs(study.load("smoke").figures["curves"])
    assert runs[-1].dataset == "official-mixture"
    shown = "    pretrained: [{datasets: [official-%s], models: [plain]}]\n"
    head = "figures:\n  strip:\n    kind: %s\n    title: Strip\n"
    path.write_text(head % "prediction" + shown % "something")
    study.load("smoke")
    path.write_text(head % "prediction" + shown % "somthing")
    with pytest.raises(UserError, match=r"unknown dataset 'somthing'; did you mean: something"):
        study.load("smoke")
    path.write_text(head % "pretraining" + shown % "something")
    with pytest.raises(UserError, match="official-something is the authors' work"):
        study.load("smoke")


def test_seeds_of_pretraining(project):
    path = project / "config/study/smoke.yaml"
    text = """figures:
  errors:
    kind: prediction_errors
    title: Errors
    pretrained: [{datasets: [something], models: [contextwm, plain], seeds: 2}]
"""
    path.write_text(text)
    runs = study.pretrained_runs(study.load("smoke").figures["errors"])
    assert runs == [("something", m, s) for m in ("contextwm", "plain") for s in (0, 1)]
    path.write_text(text.replace("prediction_errors", "prediction"))
    with pytest.raises(UserError, match="kind prediction shows one seed of each pre-trained"):
        study.load("smoke")
    path.write_text(text.replace("[something]", "[official-something]"))
    with pytest.raises(UserError, match="of which there is one seed"):
        study.load("smoke")


def test_an_unknown_figure_names_the_nearest():
    loaded = study.read(ROOT / "config/study/laptop.yaml")
    with pytest.raises(UserError, match=r"unknown figure 'domain_abaltion'.*domain_ablation"):
        loaded.figure("domain_abaltion")


def test_shipped_studies_are_valid_and_small_enough(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in (ROOT / "config/study").glob("*.yaml"):
        study.load(path.stem)
    for scale, most in {"laptop": 30, "evidence": 80}.items():
        figures = study.load(scale).figures.values()
        runs = {run for figure in figures for run in study.finetune_runs(figure)}
        assert len(runs) <= most


def snakemake(*arguments):
    """Snakemake in the current folder; the code under test comes from the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(("command", "status"), [("echo well", 0), ("(echo ill; exit 3)", 1)])
def test_a_log_without_room_neither_fails_a_job_nor_saves_it(project, command, status):
    rules = project / "workflow/rules/finetune.smk"
    ours = "cwm tracking-init 2>&1 | tee {log:q}"
    assert ours in rules.read_text()
    rules.write_text(rules.read_text().replace(ours, f"{command} 2>&1 | tee /dev/full"))
    command = ["snakemake", "--cores", "1", "--config", "scale=smoke", "--", "results/mlflow/ready"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "No space left" in done.stderr
    assert done.returncode == status, done.stderr
    assert (project / "results/mlflow/ready").exists() == (status == 0)


def test_a_touched_input_of_any_size_re_runs_nothing_and_an_edited_one_does(project):
    rule = "rule copy:\n input: 'large.bin'\n output: 'copy.bin'\n shell: 'cp {input} {output}'\n"
    with (project / "Snakefile").open("a") as file:
        file.write(rule)
    large = project / "large.bin"
    large.write_bytes(bytes(5_000_001))  # Snakemake's own limit is 1,000,000
    target = ("--config", "scale=smoke", "--", "copy.bin")
    assert snakemake(*target).returncode == 0
    large.touch()
    for profile in ("profiles/default", "profiles/slurm", "profiles/kubernetes"):
        done = snakemake("--dry-run", "--workflow-profile", profile, *target)
        assert "Nothing to be done" in done.stdout + done.stderr, (profile, done.stderr)
    large.write_bytes(bytes(5_000_000) + b"1")
    assert "rule copy" in snakemake("--dry-run", *target).stdout


def test_a_user_without_a_name_whose_home_cannot_be_written_runs_the_study(project, monkeypatch):
    code = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
    (project / "site").mkdir()
    (project / "site/sitecustomize.py").write_text(code)
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/none")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{project / 'site'}"}
    command = ["snakemake", "--cores", "1", "--config", "scale=smoke", "--", "results/mlflow/ready"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "MLflow at" not in done.stderr + done.stdout


NAMES = ("2024_05_01", "007", "1e3", "number #32", "true", "null", "~", "{x}", "a: b", "[x]", "-v")


@pytest.mark.parametrize("name", [*NAMES, "it's", '12"', "$HOME", "nan", "1=2"])
def test_a_folder_of_videos_on_the_command_line_stays_what_was_typed(project, name):
    arguments = ("--config", "scale=smoke", f"videos={name}", "--", "pretrain_videos")
    done = snakemake("--dry-run", "--printshellcmds", *arguments)
    (line,) = [line for line in done.stdout.splitlines() if "cwm videos" in line]
    words = shlex.split(line.partition("cwm videos")[2])
    assert words[words.index("--") + 1] == name


def test_a_folder_of_videos_that_is_not_utf8_is_refused_before_any_job(project):
    folder = os.fsdecode(b"videos=caf\xe9")
    done = snakemake("--config", "scale=smoke", folder, "--", "pretrain_videos")
    assert done.returncode == 2
    assert r"cwm: caf\udce9 is not valid UTF-8; rename the file or folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_scale_whose_name_is_a_number_is_found_or_asked_for_in_quotes(project):
    for kind in ("scale", "study"):
        shutil.copy(project / f"config/{kind}/smoke.yaml", project / f"config/{kind}/007.yaml")
    done = snakemake("--dry-run", "--config", "scale=007", "--", "fig_curves")
    assert "results/007/figures/curves.pdf" in done.stdout, done.stderr
    config = project / "config/config.yaml"
    config.write_text("scale: 007\njobs_per_gpu: 1\n")
    done = snakemake("--dry-run", "--", "all")
    assert done.returncode == 2
    assert "cwm: scale 7 is not a plain name: small letters, digits and hyphens, in quotes" in (
        done.stderr
    )
    config.write_text("scale: '007'\nvideos: 2024_05_01\njobs_per_gpu: 1\n")
    done = snakemake("--dry-run", "--", "all")
    assert done.returncode == 2
    assert "cwm: videos is 20240501, not a folder; write it in quotes" in done.stderr


def test_snakemake_says_a_mistake_in_one_line_and_exits_with_2(project):
    path = project / "config/scale/smoke.yaml"
    path.write_text(path.read_text().replace("prefill", "prefil"))
    done = snakemake("--config", "scale=smoke", "--", "all")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "cwm:" in line]
    assert "config/scale/smoke.yaml: unknown setting 'finetune.prefil'" in line
    assert "finetune.prefill" in line
    assert "rule" not in done.stdout


def test_snakemake_names_the_nearest_figure(project):
    done = snakemake("--config", "scale=smoke", "--", "fig_curvs")
    assert done.returncode == 2
    assert "cwm: unknown figure 'curvs'; did you mean: curves?" in done.stderr
