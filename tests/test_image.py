"""The Dockerfile agrees with the files that say the same; `make image-test` builds and runs it."""

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
    """What an ignore file ignores, however it is written there."""
    kept = (line for line in read(name).splitlines() if line and line[0] not in "#!")
    return {line.removeprefix("**/").strip("/*") for line in kept}


def test_it_draws_with_what_the_makefile_and_the_error_message_install():
    installed = re.search(r"apt-get install .*?recommends (.*?) &&", final()["RUN"][0])[1].split()
    makefile = re.search(r"^OPENGL := .*?,([^,]*),(.*)\)$", read("Makefile"), re.MULTILINE)
    for egl, osmesa in (makefile.groups(), (PACKAGES["egl"], PACKAGES["osmesa"])):
        names = re.findall(r"\blib[a-z]+\d\b", f"{egl} {osmesa}")
        assert len(names) == 4
        assert {name for name in installed if name.startswith("lib")} == set(names)


def test_it_has_what_compiling_asks_for(monkeypatch):
    """`make image-test` compiles something in it."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError) as error:
        require_compiler("cpu")
    (packages,) = re.findall(r"apt-get install ([^;]+);", str(error.value))
    assert packages == "g++ python3-dev"
    assert set(packages.split()) <= set(final()["RUN"][0].split())


def test_its_torch_is_the_version_that_the_set_up_ends_at_and_doctor_recommends():
    torch = re.search(r"^ARG TORCH=(\S+)$", read("Dockerfile"), re.MULTILINE)[1]
    assert re.search(r"TORCH \?= torch>=.*,<=(.*)", read("Makefile"))[1] == torch.split("==")[1]
    assert doctor.torch().remedy == f"make setup TORCH={torch}"


def test_what_it_leaves_out_is_the_last_section_of_the_versions_and_all_of_development():
    _, found, section = read("requirements.txt").partition("# development\n")
    assert "# development/,$d" in read("Dockerfile") and found
    groups = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    development = set(groups["dev"]) - {"setuptools"}  # which torch needs too, from Python 3.12 on
    assert set(re.findall(r"^([a-z-]+)==", section, re.MULTILINE)) == development


def test_nothing_of_git_the_environment_or_results_gets_in():
    assert {".git", ".venv", "results", "data"} <= lines(".dockerignore")
    ignored = lines(".dockerignore")
    assert all(line in ignored or line.split("/")[0] in ignored for line in lines(".gitignore"))


def test_it_runs_as_a_user_whose_number_shows_that_it_is_not_root():
    assert int(final()["USER"][-1]) > 0
    assert f"useradd --uid {final()['USER'][-1]} " in " ".join(final()["RUN"])


def test_its_health_is_looked_at_with_a_command_of_ours():
    assert '"cwm ' in final()["HEALTHCHECK"][0]


def test_the_workflow_names_the_image_that_the_build_lines_make():
    image = re.match(r"# docker build -t (\S+) ", read("Dockerfile"))[1]
    file = re.search(rf"# apptainer build (\S+) docker-daemon:{image}:", read("Dockerfile"))[1]
    assert f'container: "{file}"' in read("Snakefile")
    assert file in lines(".dockerignore")
