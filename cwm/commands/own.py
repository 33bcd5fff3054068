"""Your own videos -> a pre-trained model, by the Snakemake target `pretrain_videos`."""

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from cwm.infra.errors import UserError, check_utf8

log = logging.getLogger(__name__)


def train_on_videos(folder: Path, scale: str, cores: int) -> NoReturn:
    """Replace this process by Snakemake, which makes `results/<scale>/videos.html`.

    Finished jobs are not repeated: new videos cost their own decoding, and training.
    Raises UserError if `folder` is not a folder, or without a Snakefile in the current folder.
    """
    check_utf8(str(folder))
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of the videos")
    if not Path("Snakefile").exists():
        raise UserError(f"no Snakefile in {Path.cwd()}; run this command in the project's folder")
    log.info("results: results/%s/{videos.html,pretrain/videos,predict/videos,clips/videos}", scale)
    words = ["--cores", str(cores), "--set-threads", f"collect={cores}", f"decode={cores}"]
    words += ["--config", f"scale={scale}", f"videos={folder.resolve()}", "--", "pretrain_videos"]
    os.execv(sys.executable, [sys.executable, "-m", "snakemake", *words])
