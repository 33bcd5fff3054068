"""Set-up: requirement files agree, and `make setup` runs only when it is needed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from cwm.infra.errors import EXTRAS

ROOT = Path(__file__).parents[1]
PATH = {"PATH": os.environ["PATH"]}
LOCK = (ROOT / "requirements.lock").read_text()
APART = {"filelock", "fsspec", "mpmath", "networkx", "sympy"}  # for torch
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}


def normal(name: str) -> str:
    return re.split(r"[<>=;\[ ]", name)[0].lower().replace("_", "-")


def asked() -> dict[str, str]:
    """requirements.txt: name -> version."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [re.match(r"([^=#]+)==(\S+)", line) for line in lines]
    return {normal(pin[1]): pin[2] for pin in pins if pin}


def locked() -> dict[str, str]:
    """requirements.lock: name -> version."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE))


def test_lock_has_the_required_versions():
    assert asked().items() <= locked().items()


def test_lock_has_hashes_and_no_local_urls():
    entries = re.split(r"^(?=[a-z0-9-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert {entry.split("==")[0] for entry in entries} == locked().keys()
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert re.findall(r".*(?:://|--index|--find-links| /).*", LOCK) == []


def test_torch_is_not_locked_because_its_builds_differ():
    assert "torch" not in locked()


def test_pyproject_and_requirements_have_the_same_packages():
    names = {normal(name) for group in GROUPS.values() for name in group}
    assert names - {"contextwm", "torch"} == asked().keys() - APART


def test_pins_of_the_extras_are_those_of_requirements():
    pins = [re.match("([^;]*)[=<]=([^;]*)", name) for group in GROUPS.values() for name in group]
    found = {normal(pin[1]): pin[2] for pin in pins if pin}
    assert found.keys() == {"carla", "dm-control", "metaworld", "mlflow", "mujoco"}
    assert found.items() <= asked().items()


def test_extra_all_has_every_extra_that_an_error_names():
    (everything,) = GROUPS["all"]
    assert everything == f"contextwm[{','.join(sorted(set(EXTRAS.values())))}]"
    for module, extra in EXTRAS.items():
        assert normal(module) in map(normal, GROUPS[extra])


def test_installed_versions_are_the_locked_ones():
    installed = {name: version(name) for name in asked()}
    assert installed == asked(), "make setup"


@pytest.fixture
def clone(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "config").mkdir()
    shutil.copy(ROOT / "config/config.yaml", tmp_path / "config")
    return tmp_path


def make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [shutil.which("make"), "--no-print-directory", *words]  # also below `make test`
    return subprocess.run(
        command, cwd=folder, env=environment or None, capture_output=True, text=True
    )


def test_a_set_up_folder_has_nothing_to_do_until_a_version_changes(clone):
    (clone / ".venv").mkdir()
    assert make(clone, "--question", "setup").returncode == 1
    assert make(clone, "--touch", "setup").returncode == 0  # as if it had been set up
    assert make(clone, "--question", "setup").returncode == 0
    lock = clone / "requirements.lock"
    lock.write_text(lock.read_text().replace("ruff==", "ruff==1!"))
    assert make(clone, "--question", "setup").returncode == 1
    shutil.copy(ROOT / "requirements.lock", clone)
    assert make(clone, "--question", "setup").returncode == 0


def test_a_copied_environment_is_not_taken_for_a_set_up_one(clone, tmp_path_factory):
    (clone / ".venv").mkdir()
    make(clone, "--touch", "setup")
    other = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(clone, other)
    assert make(other, "--question", "setup").returncode == 1


ODD = 'it\'s a #1 "50" $HOME & `x` (y) why? \\ ~ é;'


def test_a_folder_of_any_name_is_set_up(clone):
    folder = clone.rename(clone.with_name(ODD))
    (folder / ".venv").mkdir()
    done = make(folder, "--question", "setup")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    recipe = make(folder, "--just-print", "setup", "bench", "REFERENCE=it's", CORES="1", **PATH)
    assert "--reference 'it'\\''s'" in recipe.stdout
    assert subprocess.run(["bash", "-n"], input=recipe.stdout, text=True).returncode == 0
    assert make(folder, "--touch", "setup").returncode == 0
    assert make(folder, "--question", "setup").returncode == 0


@pytest.mark.parametrize("name", ["a:b", "a{b", "50%", "a[b]", "a\tb", os.fsdecode(b"a\xe9b")])
def test_folder_name_that_breaks_pip_is_an_error(clone, name):
    folder = clone.rename(clone.with_name(name))
    done = make(folder, "setup", f"PYTHON={sys.executable}")
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "The path of this folder has one of : % [ ] { }, a control character or no UTF-8, which "
        "Python's tools cannot take: rename it"
    ]
    assert not (folder / ".venv").exists()


def test_packages_are_installed_in_the_environment_despite_variables(clone):
    """Stub tools record their arguments; nothing is installed for the system's Python."""
    tools = clone / ".venv/bin"
    tools.mkdir(parents=True)
    (clone / ".venv/pyvenv.cfg").write_text(f"command = python -m venv {clone}/.venv\n")
    note = f'echo "$(basename "$0") $* ${{PIP_TARGET-}}${{PIP_PREFIX-}}$PIP_USER" >> {clone}/said\n'
    for name in ("python", "uv", "cwm"):
        (tools / name).write_text(f"#!/bin/sh\n{note}")
        (tools / name).chmod(0o755)
    variables = {"UV_SYSTEM_PYTHON": "1", "UV_PYTHON": "3.12", "PIP_USER": "1"}
    variables |= {"PIP_TARGET": "/elsewhere", "PIP_PREFIX": "/elsewhere"}
    done = make(clone, "setup", f"PYTHON={sys.executable}", **variables, **PATH)
    assert done.returncode == 0, done.stderr
    said = (clone / "said").read_text().splitlines()
    installs = [line for line in said if "pip install" in line]
    assert len([line for line in installs if line.startswith("python -m pip install")]) == 2
    assert len([line for line in installs if line.startswith("uv pip install")]) == 2
    assert all("--python .venv/bin/python" in line for line in installs if line[:2] == "uv")
    assert all(line.endswith(" 0") for line in installs)


@pytest.mark.parametrize("variables", [{"HOME": "/proc/none"}, {"HOME": "/proc"}])
def test_caches_are_in_the_folder_if_home_is_not_writable(clone, variables):
    show = "show: ; @echo [$${XDG_CACHE_HOME:-}]"
    done = make(clone, "--eval", show, "show", **variables, **PATH)
    assert done.stdout == f"[{clone}/.snakemake/cache]\n"
    home = clone / "home"
    home.mkdir()
    assert make(clone, "--eval", show, "show", HOME=str(home), **PATH).stdout == "[]\n"
    done = make(clone, "--eval", show, "show", XDG_CACHE_HOME="/mine", **variables, **PATH)
    assert done.stdout == "[/mine]\n"


def test_missing_python_version_is_one_line_with_a_remedy(clone, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "cut", "id", "sha256sum"):
        (tools / name).symlink_to(shutil.which(name))
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # as a Python 3.9 exits
    old.chmod(0o755)
    done = make(clone, "setup", PATH=str(tools))
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "Python 3.11 or 3.12 is needed. As root: "
        "apt-get install -y --no-install-recommends python3 python3-venv"
    ]
    assert not (clone / ".venv").exists()
