"""Promises of SECURITY.md that no other test checks."""

import ast
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cwm import study
from cwm.infra.errors import UserError

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("cwm", "envs", "profiles") for path in (ROOT / folder).rglob("*.py")]
RULES = [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]
# Calls that could execute a string.
CALLS = {"eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "subprocess.getoutput"}
MODULES = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {w.arg: ast.unparse(w.value) for w in node.keywords}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_string_is_executed(path):
    for name, words in calls(path):
        assert name not in CALLS, name
        assert words.get("shell", "False") == "False", name
        assert words.get("allow_pickle", "False") == "False", name
        assert name != "torch.load" or words["weights_only"] == "True"
    tree = ast.walk(ast.parse(path.read_text()))
    imported = {a.name for node in tree if isinstance(node, ast.Import) for a in node.names}
    assert not imported & MODULES


# Options that the rules build from checked names or quoted folders.
MADE = {"params.folder", "params.pretrained", "params.stores", "threads"}


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_quote_what_they_pass_to_the_shell(path):
    found = re.findall(r"shell:\n((?: +\".*\"\n)+)", path.read_text())
    passed = [field for text in found for field in re.findall(r"{([^}]*)}", text)]
    assert [name for name in passed if not name.endswith(":q") and name not in MADE] == []
    assert passed or path.name in ("Snakefile", "common.smk")


NAME = "x; touch harm"
STUDY = """
figures:
  {}:
    kind: curves
    title: T
    runs: [{{suite: {}, tasks: [{}], models: [{}], datasets: [none]}}]
"""


@pytest.mark.parametrize("place", range(4))
def test_names_in_a_study_are_plain_words(tmp_path, place):
    names = ["fig", "toy", "sphere", "plain"]
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(*names))
    study.read(path)
    names[place] = f'"{NAME}"'
    path.write_text(STUDY.format(*names))
    with pytest.raises(UserError, match="should match pattern"):
        study.read(path)


def test_invalid_scale_name_stops_before_any_command(tmp_path):
    (tmp_path / "config/scale").mkdir(parents=True)
    (tmp_path / "config/study").mkdir()
    for folder in ("workflow", "Snakefile"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "config/config.yaml").write_text("{scale: smoke, jobs_per_gpu: 1}")
    for folder in ("scale", "study"):
        text = (ROOT / "config" / folder / "smoke.yaml").read_text()
        (tmp_path / "config" / folder / f"{NAME}.yaml").write_text(text)
    command = ["snakemake", "-n", "--config", f"scale={NAME}", "--", "all"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "plain" in done.stderr
    assert not list(tmp_path.rglob("harm"))


def test_makefile_setting_is_a_number_or_empty(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for said, taken in (("2  # places", "2"), ("$(shell touch harm)", ""), ("`touch harm`", "")):
        (tmp_path / "config/config.yaml").write_text(f"jobs_per_gpu: {said}\n")
        command = ["make", "-n", "all", "CARDS=1"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert not (tmp_path / "harm").exists()
        assert f"--resources gpu={taken} " in done.stdout


def test_everything_except_torch_is_installed_by_hash():
    makefile = (ROOT / "Makefile").read_text()
    (uv,) = re.findall(r"^UV_PIP := (.*)$", makefile, re.MULTILINE)
    makefile = makefile.replace(f"UV_PIP := {uv}\n", "").replace("$(UV_PIP)", uv)
    installs = re.findall(r"(?:pip|uv pip) install ([^\n]*)", makefile)
    by_hash = [line for line in installs if "$$lock" in line]
    assert "lock='--require-hashes -r requirements.lock'" in makefile
    others = [line for line in installs if line not in by_hash]
    assert ["$$TORCH" in line or "uv==" in line or "-e ." in line for line in others] == [True] * 3


def test_mlflow_listens_on_loopback_only(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("cwm"), "ui", "--port", str(port)]
    pages = psutil.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline, heard = time.monotonic() + 600, set()
        while not heard and time.monotonic() < deadline:
            time.sleep(0.5)
            for process in (pages, *pages.children(recursive=True)):
                sockets = process.net_connections("inet")
                heard |= {s.laddr for s in sockets if s.status == psutil.CONN_LISTEN}
        assert {address.ip for address in heard} == {"127.0.0.1"}
        assert port in {address.port for address in heard}
    finally:
        for process in (*pages.children(recursive=True), pages):
            process.kill()
