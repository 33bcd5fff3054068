"""Where this code comes from: its git commit, and the files of a study.

A wheel has both in the package, where setup.py puts them; a checkout has them in its root.
"""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent  # of a checkout
COMMIT = PACKAGE / "commit.txt"
TEMPLATE = PACKAGE / "template"
INSTALLED = TEMPLATE.is_dir()  # from a wheel; False in a checkout
MODEL = "results/published/evidence/pretrain/something/contextwm/0"  # of the laptop study
STUDY = ("Snakefile", "config", "profiles", "workflow", MODEL)  # all that Snakemake reads


def git_commit() -> str:
    """Commit of this code: CWM_COMMIT if set (images have no .git), the wheel's, or `commit_of`."""
    if commit := os.environ.get("CWM_COMMIT"):
        return commit
    return COMMIT.read_text().strip() if COMMIT.exists() else commit_of(ROOT, "cwm/infra/source.py")


def copy_study(folder: Path) -> None:
    """Copy the files and folders of STUDY into a folder, which has none of them yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in STUDY:
        path = (TEMPLATE if INSTALLED else ROOT) / name
        if path.is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / name, ignore=skipped, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, folder / name)


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
