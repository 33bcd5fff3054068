"""Cluster profiles agree with the rules and with the default profile."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = "".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
RULES = dict(re.findall(r"^\s*rule (\w+):\n(.*?)(?=^\s*rule |\Z)", TEXT, re.MULTILINE | re.DOTALL))
ON_GPUS = {name for name, body in RULES.items() if "gpu=GPU" in body}


def read(profile):
    return yaml.safe_load((ROOT / "profiles" / profile / "config.yaml").read_text())


@pytest.mark.parametrize("profile", ["default", "slurm", "kubernetes"])
def test_profiles_name_existing_rules(profile):
    settings = read(profile)
    named = settings.get("set-resources", {}).keys() | settings.get("set-threads", {}).keys()
    assert named <= RULES.keys()


def test_slurm_sends_gpu_jobs_to_the_gpu_partition():
    assert {"pretrain", "predict", "represent", "finetune"} <= ON_GPUS
    resources = read("slurm")["set-resources"]
    for rule in ON_GPUS:
        own = resources.get(rule, {})
        assert own.get("slurm_partition") == "gpu" or own.get("gpu") == 0, rule


@pytest.mark.parametrize("profile", ["slurm", "kubernetes"])
def test_a_cluster_decides_what_to_run_again_as_the_default_profile_does(profile):
    common = ("rerun-incomplete", "rerun-triggers", "max-checksum-file-size", "keep-going")
    default, cluster = read("default"), read(profile)
    assert [cluster[name] for name in common] == [default[name] for name in common]


def test_the_next_pod_can_remove_the_lock_of_a_dead_one():
    """`cwm doctor --unlock` removes only locks of this host name, so pods share a fixed one."""
    manifests = yaml.safe_load_all((ROOT / "profiles/kubernetes/study.yaml").read_text())
    (pod,) = (m["spec"]["template"]["spec"] for m in manifests if m["kind"] == "Job")
    assert pod["hostname"]
    assert "cwm doctor --unlock" in pod["containers"][0]["args"][0]
