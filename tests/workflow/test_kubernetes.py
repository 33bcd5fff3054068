"""The Kubernetes profile, with a fake API server.

The server on loopback checks every Job against Kubernetes' schema and runs its command on this
machine. Snakemake, its executor, the client library and the jobs are real.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "profiles/kubernetes"
VERSION = "1.30"
JOBS = "/apis/batch/v1/namespaces/study/jobs"


def check(manifest):
    kubernetes_validate.validate(manifest, VERSION, strict=True)


class Api(BaseHTTPRequestHandler):
    """Creates, reports and deletes the Jobs of one namespace."""

    jobs: ClassVar[dict[str, tuple[dict, subprocess.Popen]]] = {}

    def do_POST(self):
        assert self.path == JOBS
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        check(body)
        container = body["spec"]["template"]["spec"]["containers"][0]
        process = subprocess.Popen(container["command"], cwd=self.server.study)
        self.jobs[body["metadata"]["name"]] = body, process
        self.answer(body, 201)

    def do_GET(self):
        name = self.path.removeprefix(f"{JOBS}/").removesuffix("/status")
        if name not in self.jobs:
            self.answer({"kind": "Status", "code": 404}, 404)
            return
        body, process = self.jobs[name]
        kind = {None: None, 0: "Complete"}.get(process.poll(), "Failed")
        ended = [{"type": kind, "status": "True"}] if kind else []
        self.answer(body | {"status": {"conditions": ended}})

    def do_DELETE(self):
        _, process = self.jobs[self.path.partition("?")[0].removeprefix(f"{JOBS}/")]
        process.kill()
        self.answer({"kind": "Status", "status": "Success"})

    def answer(self, content, code=200):
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


@pytest.fixture
def study(project, tmp_path, monkeypatch):
    """A copy of the project, and an API that runs jobs in it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.study = tmp_path
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "study"}}
    kube = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context]}
    kube |= {"users": [{"name": "u", "user": {}}], "current-context": "c"}
    (tmp_path / "kube.yaml").write_text(yaml.safe_dump(kube))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kube.yaml"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Api.jobs.clear()
    yield tmp_path
    server.shutdown()


@pytest.fixture
def submit(study, snakemake):
    """Run Snakemake with the Kubernetes profile."""
    words = ["--workflow-profile", "profiles/kubernetes", "--seconds-between-status-checks", "1"]
    words += ["--latency-wait", "5", "--config", "scale=smoke"]
    return partial(snakemake, study, *words)


def test_manifests_follow_the_schema_of_kubernetes():
    manifests = list(yaml.safe_load_all((PROFILE / "study.yaml").read_text()))
    assert [m["kind"] for m in manifests].count("Job") == 1
    for manifest in manifests:
        check(manifest)
    with pytest.raises(kubernetes_validate.ValidationError):
        check(manifests[0] | {"spec": {"accessMode": ["ReadWriteMany"]}})


def test_a_run_uses_the_cluster_and_a_failed_job_is_retried(study, submit, monkeypatch):
    run = "results/smoke/finetune/toy/sphere/dreamer/none/standard/0"
    path = study / "config/scale/smoke.yaml"
    path.write_text(path.read_text().replace("device: cpu", "device: auto"))
    marker = study / "failed-once"
    shim = study / "bin"
    shim.mkdir()
    # The first fine-tuning job is killed, like a preempted pod; the second resumes.
    (shim / "cwm").write_text(
        f'#!/bin/sh\nif [ "$1" = finetune ] && [ ! -e {marker} ]; then\n'
        f'  touch {marker}; kill -9 $$; fi\nexec {shutil.which("cwm")} "$@"\n'
    )
    (shim / "cwm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim}:{os.environ['PATH']}")
    done = submit("--", f"{run}/scores.csv")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (study / run / "weights.safetensors").exists()
    bodies = [body for body, _ in Api.jobs.values()]
    names = [body["metadata"]["name"].rpartition("-")[0] for body in bodies]
    assert names == ["cwm-finetune", "cwm-finetune"]  # the tracking database is a local rule
    limits = [b["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] for b in bodies]
    assert limits == [
        {"memory": "24000M", "nvidia.com/gpu": 1},
        {"memory": "48000M", "nvidia.com/gpu": 1},
    ]


def test_several_nodes_are_refused():
    job = ["--rule", "pretrain", "--cpus", "1", "--memory", "9", "job.sh"]
    argv = [sys.executable, PROFILE / "jobs.py", "submit", "--gpus", "2", "--nodes", "2", *job]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("pretrain.nodes must be 1 on Kubernetes")


def test_an_unreachable_cluster_is_an_error_with_its_address(study, submit):
    kube = yaml.safe_load((study / "kube.yaml").read_text())
    kube["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    (study / "kube.yaml").write_text(yaml.safe_dump(kube))
    done = submit("--retries", "0", "--", "results/smoke/baselines/toy/sphere/scores.csv")
    assert done.returncode == 1
    assert "127.0.0.1" in done.stderr
    assert "port=9" in done.stderr
