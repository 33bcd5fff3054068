"""profiles/slurm on a real SLURM, and jobs that it stops: `make slurm-test`."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
POLLING = ["--slurm-init-seconds-before-status-checks", "2"]  # nobody else is troubled
STEPS = 7000
RUN = "results/smoke/finetune/toy/blob/dreamer/none/standard/0"
SAME = ("scores.csv", "metrics.jsonl", "weights.safetensors", "episode.mp4")


def new_project(folder, **finetune):
    """A smoke study that asks for GPUs, though torch then finds none."""
    for name in ("config", "workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    path = folder / "config/scale/smoke.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["runtime"]["device"] = "auto"
    settings["finetune"] |= finetune
    path.write_text(yaml.safe_dump(settings))
    return folder


def long_run(folder):
    """A project with a run that lasts, and a checkpoint at the end of each episode."""
    return new_project(folder, steps=STEPS, eval_every=1000, checkpoint_seconds=0)


class Study:
    """Snakemake at work in a folder."""

    def __init__(self, folder, target, *options):
        self.folder, self.log = folder, folder / "snakemake.txt"
        command = ["snakemake", *options, "--config", "scale=smoke", "--", target]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    def end(self):
        """The exit status and all that was said."""
        return self.process.wait(), self.log.read_text()

    def jobs(self):
        """Ids of the jobs that were submitted, with their rules, in this order."""
        submitted = r"SLURM jobid (\d+) \(log: \S+/rule_(\w+)/"
        return dict(re.findall(submitted, self.log.read_text()))

    def job(self):
        """The newest job, once it has a checkpoint that is not of the beginning."""
        for _ in range(1800):
            assert self.process.poll() is None, self.log.read_text()
            if self.jobs() and checkpoint(self.folder) > STEPS / 20:
                return list(self.jobs())[-1]
            time.sleep(0.2)
        raise TimeoutError(self.log.read_text())


def on_slurm(folder, target):
    return Study(folder, target, "--workflow-profile", "profiles/slurm", *POLLING)


def slurm(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def ended():
    """What SLURM wrote down about each job that has ended, by its id; the last word counts."""
    lines = Path(os.environ["SLURM_TEST_JOBS"]).read_text().splitlines()
    jobs = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
    return {job["JobId"]: job for job in jobs}


def checkpoint(folder):
    """The step of the last checkpoint of the only run in progress."""
    done = folder.glob("results/smoke/work/*/checkpoint/*/done")
    return max((int(path.parent.name) for path in done), default=0)


def first_step(folder):
    """The step at which the last sitting began, as its log says."""
    line = (folder / RUN / "log.txt").read_text().splitlines()[0]
    return int(re.search(rf"\| (\d+)/{STEPS} ", line)[1])


def content(folder):
    return {name: (folder / RUN / name).read_bytes() for name in SAME}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The long run, never stopped and without SLURM."""
    folder = long_run(tmp_path_factory.mktemp("straight"))
    status, said = Study(folder, f"{RUN}/scores.csv", "--cores", "1").end()
    assert status == 0, said
    assert first_step(folder) == 1
    return content(folder)


def assert_went_on(folder, study, straight, step):
    status, said = study.end()
    assert status == 0, said
    assert first_step(folder) > step
    assert content(folder) == straight


def test_the_whole_study_runs_as_jobs(tmp_path):
    study = on_slurm(new_project(tmp_path), "all")
    status, said = study.end()
    assert status == 0, said[-3000:]
    assert (tmp_path / "results/smoke/report.html").stat().st_size > 1000
    assert not {"scores", "table", "figure", "report", "tracking"} & set(study.jobs().values())
    jobs = ended()
    for number, rule in study.jobs().items():
        job = jobs[number]
        gpu = rule in ("pretrain", "predict", "represent", "invariance", "adapt", "finetune")
        assert job["JobState"] == "COMPLETED"
        assert job["Partition"] == ("gpu" if gpu else "cpu"), rule
        assert ("TresPerJob=gres:gpu:1" in slurm("scontrol", "show", "job", number)) == gpu
    assert list(study.jobs().values()).count("finetune") == 10


def test_a_cancelled_job_goes_on_from_its_checkpoint(tmp_path, straight):
    study = on_slurm(long_run(tmp_path), f"{RUN}/scores.csv")
    job, step = study.job(), checkpoint(tmp_path)
    slurm("scancel", job)
    assert_went_on(tmp_path, study, straight, step)
    first, second = (ended()[number] for number in study.jobs())
    assert (first["JobState"], second["JobState"]) == ("CANCELLED", "COMPLETED")


def test_a_job_out_of_time_goes_on_with_more(tmp_path, straight):
    study = on_slurm(long_run(tmp_path), f"{RUN}/scores.csv")
    job, step = study.job(), checkpoint(tmp_path)
    limit = slurm("squeue", "--noheader", "--job", job, "--format", "%l %m")
    assert limit == "1-00:00:00 24000M"
    # Its day is over: a limit counts in minutes, too long for a test.
    slurm("scontrol", "update", f"JobId={job}", f"EndTime={time.strftime('%Y-%m-%dT%H:%M:%S')}")
    assert_went_on(tmp_path, study, straight, step)
    first, second = (ended()[number] for number in study.jobs())
    assert (first["JobState"], second["JobState"]) == ("TIMEOUT", "COMPLETED")
    assert second["TimeLimit"] == "2880"
    assert "mem=48000M" in second["Tres"]


def test_a_preempted_job_is_queued_again_by_slurm(tmp_path, straight):
    study = on_slurm(long_run(tmp_path), f"{RUN}/scores.csv")
    job, step = study.job(), checkpoint(tmp_path)
    urgent = ["--partition", "urgent", "--exclusive", "--output", "/dev/null", "--wrap", "sleep 1"]
    slurm("sbatch", *urgent)
    assert_went_on(tmp_path, study, straight, step)
    assert list(study.jobs()) == [job]
    assert "Restarts=1" in slurm("scontrol", "show", "job", job)


def test_a_partition_that_does_not_exist_is_named_and_nothing_is_lost(tmp_path):
    profile = new_project(tmp_path) / "profiles/slurm/config.yaml"
    text = profile.read_text()
    profile.write_text(text.replace("slurm_partition: gpu ", "slurm_partition: nowhere "))
    target = "results/smoke/pretrain/something/contextwm/0/weights.json"
    status, said = on_slurm(tmp_path, target).end()
    assert status == 1
    assert "invalid partition specified: nowhere" in said

    profile.write_text(text)
    study = on_slurm(tmp_path, target)
    assert study.end()[0] == 0
    assert list(study.jobs().values()) == ["pretrain"]


def rank(number, folder):
    """Id of a process of the pre-training in a folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (process / "environ").read_text().split("\0")
            if f"RANK={number}" in variables and (process / "cwd").resolve() == folder:
                return int(process.name)
    raise ProcessLookupError(number)


def test_pretraining_on_two_nodes_survives_a_dead_process(tmp_path):
    new_project(tmp_path)
    path = tmp_path / "config/scale/smoke.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["pretrain"] |= {"nodes": 2, "updates": 60, "checkpoint_seconds": 0}
    path.write_text(yaml.safe_dump(settings))
    profile = tmp_path / "profiles/slurm/config.yaml"
    profile.write_text(
        profile.read_text().replace("slurm_partition: gpu ", "slurm_partition: pair ")
    )
    folder = tmp_path / "results/smoke/pretrain/something/contextwm/0"
    local = Study(tmp_path, "results/smoke/clips/something/store.json", "--cores", "2")
    assert local.end()[0] == 0
    study = on_slurm(tmp_path, folder.relative_to(tmp_path) / "weights.json")
    while not checkpoint(tmp_path):
        assert study.process.poll() is None, study.log.read_text()
        time.sleep(0.2)
    os.kill(rank(1, tmp_path), signal.SIGKILL)
    status, said = study.end()
    assert status == 0, said
    assert "cwm: process 1 was killed (SIGKILL); the same command resumes" in said
    first, second = (ended()[job] for job in study.jobs())
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    assert second["NodeCnt"] == "2"
    assert "| 1/60 " not in (folder / "log.txt").read_text()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
    assert steps == list(range(2, 61, 2))
