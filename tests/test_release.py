"""Release tooling: the workflows name targets of the Makefile, and publish only what was tested."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github").glob("w*/*.yaml")
}
JOBS = WORKFLOWS["release"]["jobs"]
DEVCONTAINER = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
VERSION = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]


def scripts(job):
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    shell = [scripts(job) for flow in WORKFLOWS.values() for job in flow["jobs"].values()]
    targets = re.findall(
        r"(?<!\w)make ([a-z-]+)", "\n".join([*shell, DEVCONTAINER["postCreateCommand"]])
    )
    assert {"check", "test", "docs", "package", "setup"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_a_release_is_published_after_its_tests_and_the_smoke_study():
    def before(job):
        return [job, *(x for name in [JOBS[job].get("needs")] if name for x in before(name))]

    assert before("github") == ["github", "pypi", "image", "package"]
    image = scripts(JOBS["image"])
    assert image.index("docker build") < image.index("scale=smoke") < image.index("docker push")


def test_jobs_have_only_the_permissions_that_they_need():
    for flow in WORKFLOWS.values():
        assert flow["permissions"] == {"contents": "read"}
    given = {name: job.get("permissions", {}) for name, job in JOBS.items()}
    assert {name: [x for x in given[name] if given[name][x] == "write"] for name in given} == {
        "package": [],
        "image": ["packages"],
        "pypi": ["id-token"],
        "github": ["contents"],
    }


@pytest.mark.parametrize(
    ("tag", "heading", "status"),
    [
        (f"v{VERSION}", VERSION, 0),
        (f"v{VERSION}", f"{VERSION} (unreleased)", 1),
        ("v9.9.9", VERSION, 1),
        (f"v{VERSION}1", VERSION, 1),
    ],
)
def test_tag_must_be_the_version_and_have_release_notes(tmp_path, tag, heading, status):
    (check,) = [x["run"] for x in JOBS["package"]["steps"] if "agree" in x.get("name", "")]
    for name in ("pyproject.toml", "CITATION.cff"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    changes = f"# Changelog\n\n## {heading}\n\n- new\n\n### Added\n\n- more\n\n## 0.1.0\n\n- old\n"
    (tmp_path / "CHANGELOG.md").write_text(changes)
    command = ["bash", "-e", "-c", check]
    done = subprocess.run(command, cwd=tmp_path, env={"GITHUB_REF_NAME": tag}, check=False)
    assert done.returncode == status
    if status == 0:
        notes = (tmp_path / "notes.md").read_text()
        assert notes.strip() == "- new\n\n### Added\n\n- more"


def test_devcontainer_forwards_the_ports_of_the_pages():
    code = (ROOT / "cwm/cli.py").read_text()
    for port in DEVCONTAINER["forwardPorts"]:
        assert f"= {port}" in code
