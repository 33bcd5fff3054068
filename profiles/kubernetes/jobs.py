"""Run Snakemake jobs as Kubernetes Jobs, for the cluster-generic executor.

    python jobs.py submit --rule RULE --cpus N --memory MB --gpus N --nodes 1 SCRIPT
                                     prints the job's name
    python jobs.py status NAME       prints running, success or failed
    python jobs.py cancel NAME...

The namespace is the pod's, or the current context's outside a cluster.
"""

import argparse
import sys
import uuid
from pathlib import Path

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

HERE = Path(__file__).parent
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def connect() -> tuple[client.BatchV1Api, str]:
    """Connect to the API; also returns the namespace of the jobs."""
    if NAMESPACE.exists():
        config.load_incluster_config()
        return client.BatchV1Api(), NAMESPACE.read_text().strip()
    config.load_kube_config()
    _, context = config.list_kube_config_contexts()
    return client.BatchV1Api(), context["context"].get("namespace", "default")


def job(rule: str, cpus: int, memory: int, gpus: int, script: Path) -> dict:
    """Build the Job that runs a Snakemake job script; `memory` is in MB."""
    body = yaml.safe_load((HERE / "job.yaml").read_text())
    body["metadata"]["name"] = f"cwm-{rule.replace('_', '-').lower()}-{uuid.uuid4().hex[:10]}"
    container = body["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["sh", "-e", str(script)]
    limits = {"memory": f"{memory}M"} | ({"nvidia.com/gpu": gpus} if gpus else {})
    container["resources"] = {"requests": {"cpu": cpus} | limits, "limits": limits}
    return body


def status(api: client.BatchV1Api, namespace: str, name: str) -> str:
    """State of a Job; a deleted Job is `failed`, so that Snakemake submits it again."""
    try:
        found = api.read_namespaced_job_status(name, namespace).status
    except ApiException as error:
        if error.status == 404:
            return "failed"
        raise
    ended = {c.type: c.status == "True" for c in found.conditions or ()}
    if ended.get("Complete"):
        return "success"
    return "failed" if ended.get("Failed") else "running"


def main() -> None:
    """Run one subcommand; Snakemake reads what it prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    todo = parser.add_subparsers(dest="todo", required=True)
    submit = todo.add_parser("submit")
    submit.add_argument("--rule", required=True)
    for name in ("cpus", "memory", "gpus", "nodes"):
        submit.add_argument(f"--{name}", type=int, required=True)
    submit.add_argument("script", type=Path)
    todo.add_parser("status").add_argument("name")
    todo.add_parser("cancel").add_argument("names", nargs="+")
    args = vars(parser.parse_args())

    if args.pop("nodes", 1) > 1:
        sys.exit("pretrain.nodes must be 1 on Kubernetes: a job is one pod; raise pretrain.devices")
    api, namespace = connect()
    match args.pop("todo"):
        case "submit":
            print(api.create_namespaced_job(namespace, job(**args)).metadata.name)
        case "status":
            print(status(api, namespace, args["name"]))
        case "cancel":
            for name in args["names"]:
                api.delete_namespaced_job(name, namespace, propagation_policy="Background")


if __name__ == "__main__":
    main()
