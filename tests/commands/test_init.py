"""`cwm init DIR` writes a whole study, and never over other files."""

import filecmp
from pathlib import Path

import pytest

from cwm.commands.init import init
from cwm.infra.errors import UserError
from cwm.infra.source import STUDY

ROOT = Path(__file__).parents[2]


def files(path):
    return [x for x in (path, *path.rglob("*")) if x.is_file() and "__pycache__" not in x.parts]


def test_study_has_the_files_that_snakemake_reads(tmp_path):
    init(tmp_path / "a/study")
    wanted = [file.relative_to(ROOT) for name in STUDY for file in files(ROOT / name)]
    found = [file.relative_to(tmp_path / "a/study") for file in files(tmp_path / "a/study")]
    assert sorted(found) == sorted([*wanted, Path("README.md")])
    assert filecmp.cmp(tmp_path / "a/study/Snakefile", ROOT / "Snakefile", shallow=False)


def test_study_is_written_beside_other_files(tmp_path):
    (tmp_path / ".venv").mkdir()
    init(tmp_path)
    assert (tmp_path / "config/config.yaml").exists()


@pytest.mark.parametrize("name", ["Snakefile", "config", "README.md"])
def test_existing_file_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} exists; choose a new or empty folder"):
        init(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
