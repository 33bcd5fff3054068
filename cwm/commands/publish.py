"""Copy a study's results to a folder that git tracks: what its figures read, and a few models."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from cwm.commands.redraw import INPUTS, baselines, existing
from cwm.infra.checkpoint import load_weights
from cwm.infra.errors import UserError
from cwm.study_file import read

ORIGIN = ("run.json", "config.yaml")  # of every run
MODEL = ("weights.json", "weights.safetensors", "card.md")

log = logging.getLogger(__name__)


def publish(results: Path, study: Path, out: Path, models: Sequence[Path]) -> None:
    """Copy to `out` what `cwm redraw` reads in `results`, and the weights and cards of `models`.

    The study file is copied too, so that the figures can be drawn after config/study has changed.
    `models` are folders of runs in `results`. Checkpoints, videos and logs stay behind.

    Raises UserError if `out` exists, if `results` has no runs of the study, and for a model that is
    damaged, incomplete or not in `results`.
    """
    if out.exists():
        raise UserError(f"{out} exists; delete it, or name another folder")
    files, missing = [], 0
    for figure in read(study).figures.values():
        if figure.kind in INPUTS:
            found, absent = existing(results, figure)
            files += [*found, *baselines(results, figure)]
            missing += len(absent)
    if not files:
        raise UserError(f"{results} has no runs of {study}")
    for folder in models:
        if not folder.is_relative_to(results):
            raise UserError(f"{folder} is not in {results}")
        load_weights(folder / "weights.json")  # checks the sha256
        files += [folder / name for name in MODEL]
    folders = dict.fromkeys(file.parent for file in files)
    files += [folder / name for folder in folders for name in ORIGIN]
    if lost := [file for file in files if not file.is_file()]:
        raise UserError(f"{lost[0]} is missing: the run is not complete")
    files = list(dict.fromkeys(files))
    for file in files:
        copy = out / file.relative_to(results)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    shutil.copyfile(study, out / "study.yaml")
    size = sum(file.stat().st_size for file in files) / 1e6
    log.info("%d runs, %d models, %.1f MB in %s", len(folders), len(models), size, out)
    if missing:
        log.info("runs of figures that do not exist: %d", missing)
