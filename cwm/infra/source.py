"""Which code this is."""

import os
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commit() -> str:
    """The code's git commit, as `git_commit`; in an image, which has no .git, CWM_COMMIT."""
    return os.environ.get("CWM_COMMIT") or git_commit(ROOT, "cwm/infra/source.py")


@cache  # a run is of the code that it was started with
def git_commit(root: Path, file: str) -> str:
    """The commit of a checkout, with `-dirty` after uncommitted edits of tracked files.

    It is `unknown` unless `root` is the top folder of a repository that tracks `file`: a repository
    around it, or one that GIT_DIR names, is another one.
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
