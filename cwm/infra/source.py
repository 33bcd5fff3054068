"""The git commit of the code."""

import os
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def git_commit() -> str:
    """Commit of this code: CWM_COMMIT if set (images have no .git), else `commit_of` it."""
    return os.environ.get("CWM_COMMIT") or commit_of(ROOT, "cwm/infra/source.py")


@cache  # later edits do not change the code of a running process
def commit_of(root: Path, file: str) -> str:
    """Commit of a checkout, with `-dirty` if tracked files have uncommitted changes.

    `unknown` unless `root` is the top folder of a repository that tracks `file`. A repository in a
    parent folder, or one named by GIT_DIR, does not count.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    try:
        if git("ls-files", "--full-name", "--error-unmatch", file) != file:
            return "unknown"
        return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
