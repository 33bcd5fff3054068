"""The Dockerfile is consistent with other files; `make image-test` builds and runs it."""

import re
import tomllib
from pathlib import Path

import pytest

from cwm import doctor
from cwm.infra.errors import UserError
from cwm.train.compiled import require_compiler
from envs.rendering import PACKAGES

ROOT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), without comments and line ends."""
    code = "".join(line for line in read("Dockerfile").splitlines(True) if line[0] != "#")
    lines = filter(None, re.sub(r"\\\n\s*", "", code).splitlines())
    return [tuple(line.split(maxsplit=1)) for line in lines]


def final() -> dict[str, list[str]]:
    """The last stage: instruction -> arguments, in their order."""
    stage: dict[str, list[str]] = {}
    for instruction, arguments in instructions():
        stage = {} if instruction == "FROM" else stage
        stage.setdefault(instruction, []).append(arguments)
    return stage


def lines(name: str) -> set[str]:
    """Names that an ignore file lists, without slashes and wildcards."""
    kept = (line for line in read(name).splitlines() if line and line[0] not in "#!")
    return {line.removeprefix("**/").strip("/*") for line in kept}


def test_opengl_packages_are_those_of_the_makefile_and_the_error_message():
    installed = re.search(r"apt-get install .*?recommends (.*?) &&", final()["RUN"][0])[1].split()
    makefile = re.search(r"^OPENGL := .*?,([^,]*),(.*)\)$", read("Makefile"), re.MULTILINE)
    for egl, osmesa in (makefile.groups(), (PACKAGES["egl"], PACKAGES["osmesa"])):
        names = re.findall(r"\blib[a-z]+\d\b", f"{egl} {osmesa}")
        assert len(names) == 4
        assert {name for name in installed if name.startswith("lib")} == set(names)


def test_compiler_is_installed(monkeypatch):
    """`make image-test` compiles something in it."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError) as error:
        require_compiler("cpu")
    (packages,) = re.findall(r"apt-get install ([^;]+);", str(error.value))
    assert packages == "g++ python3-dev"
    assert set(packages.split()) <= set(final()["RUN"][0].split())


def test_torch_version_is_that_of_the_makefile_and_doctor():
    torch = re.search(r"^ARG TORCH=(\S+)$", read("Dockerfile"), re.MULTILINE)[1]
    assert re.search(r"TORCH \?= torch>=.*,<=(.*)", read("Makefile"))[1] == torch.split("==")[1]
    assert doctor.torch().remedy == f"make setup TORCH={torch}"


def test_development_requirements_are_left_out():
    _, found, section = read("requirements.txt").partition("# development\n")
    assert "# development/,$d" in read("Dockerfile") and found
    groups = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    development = set(groups["dev"]) - {"setuptools"}  # which torch needs too, from Python 3.12 on
    assert set(re.findall(r"^([a-z-]+)==", section, re.MULTILINE)) == development


def test_git_environment_and_results_are_ignored():
    assert {".git", ".venv", "results", "data"} <= lines(".dockerignore")
    ignored = lines(".dockerignore")
    assert all(line in ignored or line.split("/")[0] in ignored for line in lines(".gitignore"))


def test_user_is_numeric_and_not_root():
    assert int(final()["USER"][-1]) > 0
    assert f"useradd --uid {final()['USER'][-1]} " in " ".join(final()["RUN"])


def test_health_check_runs_cwm():
    assert '"cwm ' in final()["HEALTHCHECK"][0]


def test_workflow_uses_the_image_of_the_build_commands():
    image = re.match(r"# docker build -t (\S+) ", read("Dockerfile"))[1]
    file = re.search(rf"# apptainer build (\S+) docker-daemon:{image}:", read("Dockerfile"))[1]
    assert f'container: "{file}"' in read("Snakefile")
    assert file in lines(".dockerignore")
