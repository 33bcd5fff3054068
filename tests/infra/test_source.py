"""The recorded commit is that of this code, or `unknown`."""

import os
import re
import subprocess

import pytest

from cwm.infra import source

FILE = "cwm/infra/source.py"


def git(folder, *arguments):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository with the code, tagged; its folder."""
    root = tmp_path / "code"
    (root / FILE).parent.mkdir(parents=True)
    (root / FILE).write_text("1\n")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "code")
    git(root, "tag", "-a", "v1", "-m", "a tag, which must not be reported")
    return root


@pytest.fixture
def other(tmp_path):
    """Another repository with one commit, in a parent folder."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "notes")
    return tmp_path


def test_clean_checkout_has_its_commit(checkout):
    commit = source.commit_of(checkout, FILE)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert commit == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("staged", [False, True])
def test_edits_are_marked_dirty_and_new_files_are_not(checkout, staged):
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "config.yaml").write_text("not tracked\n")
    assert source.commit_of.__wrapped__(checkout, FILE) == head
    (checkout / FILE).write_text("2\n")
    if staged:
        git(checkout, "add", FILE)
    assert source.commit_of.__wrapped__(checkout, FILE) == f"{head}-dirty"


def test_repository_in_a_parent_folder_does_not_count(other):
    (other / "unpacked" / FILE).parent.mkdir(parents=True)
    (other / "unpacked" / FILE).write_text("1\n")
    assert source.commit_of.__wrapped__(other / "unpacked", FILE) == "unknown"
    git(other, "add", ".")
    git(other, "commit", "-q", "-m", "a copy of the code")
    assert source.commit_of.__wrapped__(other / "unpacked", FILE) == "unknown"


def test_repository_that_does_not_track_the_code_does_not_count(other):
    (other / FILE).parent.mkdir(parents=True)
    (other / FILE).write_text("1\n")
    assert source.commit_of(other, FILE) == "unknown"


def test_git_variables_are_ignored(checkout, other, monkeypatch):
    head = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    assert source.commit_of(checkout, FILE) == head


def test_commit_does_not_change_while_running(checkout):
    head = source.commit_of(checkout, FILE)
    (checkout / FILE).write_text("edited while running\n")
    assert source.commit_of(checkout, FILE) == head


def test_image_has_the_commit_it_was_built_from(monkeypatch):
    monkeypatch.setenv("CWM_COMMIT", "c0ffee-dirty")
    assert source.git_commit() == "c0ffee-dirty"
