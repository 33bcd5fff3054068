"""The documentation: its links, its menu, valid commands, and nothing from the network."""

import re
import shlex
import shutil
import subprocess
import tomllib

import pytest
from blocks import NOT_RUN, PAGES, ROOT, blocks
from snakemake.cli import get_argument_parser
from typer import BadParameter
from typer.main import get_command

from cwm.cli import app

# Pages whose commands are checked; those of the documentation are also run.
CHECKED = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "config/README.md"]
LANGUAGES = {"bash", "python", "yaml"}
OTHERS = {"cat", "docker", "git", "grep", "id", "kubectl", "ls", "mkdir", "pip", "sed"}
STUDIES = "".join(path.read_text() for path in (ROOT / "config/study").glob("*.yaml"))
# A shell without programs: it does what bash does, and records each program and its words.
SHELL = r"""command_not_found_handle() { printf '%q ' "$@" >&3; echo >&3; }"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make docs` builds it, in a copy of the project."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("zensical.toml", "docs", "config"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    subprocess.run(["python", "docs/generate.py"], cwd=folder, check=True)
    subprocess.run(["zensical", "build", "--clean", "--strict"], cwd=folder, check=True)
    return folder / "site"


def test_site_needs_no_network(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 25
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=[\"']?(\w+://[^\"' >]*)",
            page.read_text(),
        )
        assert loaded == [], page
        assert re.findall(r"(?:@import|url\()[\"' ]*(?:https?:)?//", page.read_text()) == [], page


def test_reference_has_every_setting_and_command(site):
    settings = (site / "reference/settings.html").read_text()
    for name in ("finetune.agent.behavior.actor", "dataset.members", "env.server"):
        assert f'id="{name.replace(".", "")}"' in settings
    assert "at which a shot ends" in settings  # a comment in the code
    assert "<td></td>" not in settings  # every setting has a comment
    commands = (site / "reference/commands.html").read_text()
    for name in get_command(app).commands:
        assert f"<code>cwm {name}</code>" in commands
    assert "cwm/metaworld-drawer-open" in (site / "reference/python.html").read_text()


def test_every_page_is_in_the_menu():
    def listed(entry):
        if isinstance(entry, str):
            return {entry}
        return set().union(*map(listed, entry.values() if isinstance(entry, dict) else entry))

    menu = listed(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    written = {page.name for page in PAGES}
    assert {page for page in menu if not page.startswith("reference/")} == written


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_say_what_they_are(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, block.place
        if block.title and block.language == "bash":
            assert block.title.startswith(NOT_RUN), block.place


def programs(text, folder):
    """The programs that a block would run, with their words."""
    for name in (".venv/bin", "config/dataset", "config/study", "config/suite", "config/variant"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / ".venv/bin/activate").touch()
    record = folder / "programs"
    command = ["/bin/bash", "-c", f"exec 3>>{record}; PATH=/nowhere\n{SHELL}\n{text}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "syntax error" not in done.stderr, done.stderr
    return [shlex.split(line) for line in record.read_text().splitlines()]


def check(program, *words):
    """Raise an error unless the command line is valid."""
    if program == "cwm":
        name, *rest = words or ["--help"]
        get_command(app).commands[name].make_context(name, rest)
    elif program == "snakemake":
        get_argument_parser().parse_args(words)
    elif program == "make":
        for target in (word for word in words if "=" not in word and not word.startswith("-")):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    else:
        assert program in OTHERS, program


def check_names(words):
    """Raise an error unless settings files and figures exist; running a block checks more."""
    for word in words:
        if re.fullmatch(r"config/[a-z]+/[a-z0-9-]+\.yaml", word):
            assert (ROOT / word).exists(), word
        if word.startswith("fig_"):
            assert re.search(rf"^  {word[4:]}:", STUDIES, re.MULTILINE), word


@pytest.mark.parametrize(
    "line",
    [
        "cwm finetun",
        "cwm plan --core 2",
        "cwm plan --cores 0",
        "cwm doctor extra",
        "cwm collect a config/scale/huge.yaml --out b",
        "cwm data $(cwm scheme)",
        "cwm plan && (",
        "snakemake fig_none",
        "snakemake --coress 2 all",
        "snakmake all",
        "make tests",
    ],
)
def test_mistakes_in_commands_are_found(line, tmp_path):
    usage_error = BadParameter.__base__
    with pytest.raises((AssertionError, KeyError, SystemExit, usage_error)):
        for words in programs(line, tmp_path):
            check(*words)
            check_names(words)


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: page.stem)
def test_commands_and_files_in_the_text_exist(page):
    text = page.read_text()
    for name in re.findall(r"`cwm ([a-z][a-z-]*)", text):
        assert name in get_command(app).commands, name
    for target in re.findall(r"`make ([a-z][a-z-]*)", text):
        check("make", target)
    if page.name != "log.md":  # which keeps the names of its time
        for name in re.findall(r"`((?:bench|cwm|envs|profiles|tests)/[\w/.-]+\.(?:py|sh))`", text):
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: page.stem)
def test_commands_are_valid(page, tmp_path):
    for number, block in enumerate(blocks(page)):
        if block.language == "bash":
            for words in programs(block.text, tmp_path / str(number)):
                check(*words)
                if not block.runs:
                    check_names(words)
