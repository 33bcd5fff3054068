"""Your own videos -> a pre-trained model, by the Snakemake target `pretrain_videos`."""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from cwm.infra.errors import UserError, check_utf8, not_installed
from cwm.infra.files import walk

log = logging.getLogger(__name__)


def train_on_videos(folder: Path, scale: str, cores: int) -> NoReturn:
    """Replace this process by Snakemake, which makes `results/<scale>/videos.html`.

    Finished jobs are not repeated: new videos cost their own decoding, and training.
    Raises UserError if `folder` is not a folder, without a Snakefile in the current folder, and
    without Snakemake.
    """
    check_utf8(str(folder))
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of the videos")
    if not Path("Snakefile").exists():
        raise UserError(f"no Snakefile in {Path.cwd()}; `cwm init DIR` writes a folder with one")
    if find_spec("snakemake") is None:
        raise UserError(not_installed("snakemake"))
    log.info("results: results/%s/{videos.html,pretrain/videos,predict/videos,clips/videos}", scale)
    words = ["--cores", str(cores), "--set-threads", f"collect={cores}", f"decode={cores}"]
    words += ["--config", f"scale={scale}", f"videos={folder.resolve()}", "--", "pretrain_videos"]
    # The rules call `cwm`, which is beside this Python even if its environment is not activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    command = [sys.executable, "-m", "snakemake", *words]
    os.execve(sys.executable, command, os.environ | {"PATH": path})


def typed_values(words: Iterable[str]) -> dict[str, str]:
    """Values of `scale` and `videos` among Snakemake's `--config` words, exactly as typed.

    Snakemake parses values as YAML, so the folder 2024_05_01 would become a number. One pair of
    quotes around a value is removed.
    """
    pairs = (word.partition("=") for word in words)
    values = {name: value for name, _, value in pairs if name in ("scale", "videos")}
    quoted = re.compile(r"^(['\"])(.*)\1$", re.DOTALL)
    return {name: quoted.sub(r"\2", value) for name, value in values.items()}


def check_folder(name: object) -> str:
    """Check the value of `videos`; UserError if YAML read it as a number or it is not UTF-8."""
    if not isinstance(name, str):
        raise UserError(f"videos is {name!r}, not a folder; write it in quotes")
    check_utf8(name)
    return name


def listing_hash(folder: str) -> str:
    """Hash of the names and sizes of all files in a folder; it changes when videos are added."""
    files = [parent / name for parent, names in walk(Path(folder)) for name in names]
    sizes = sorted((str(file), file.stat().st_size) for file in files if file.exists())
    return hashlib.sha256(repr(sizes).encode()).hexdigest()
