"""The archives of a dataset -> its folder: downloaded, checked and extracted."""

import logging
import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from cwm.infra.errors import UserError
from cwm.infra.files import check_space, file_lock, human
from cwm.videos.download import FOLDER, Archive, download
from cwm.videos.extract import Group, extract, groups, is_extracted

log = logging.getLogger(__name__)


def fetch(
    archives: Sequence[Archive], folder: Path, steps: str = "", disk_bytes: int | None = None
) -> None:
    """Put a dataset in its folder, or say how a person does.

    Whatever is there already is kept: to start and to go on are the same call. Archives without
    address are expected in `folder/archives`, or else their content elsewhere in the folder; a
    dataset without archives must be there. `steps` say how a person gets it, and `disk_bytes` how
    much room that takes (none: what the archives tell).

    Raises UserError with those steps, for what `download` and `extract` refuse, for a disk that is
    too small, and while another process does the same.
    """
    unfinished = [group for group in groups(archives) if not is_extracted(group, folder)]
    missing = {group.name: _missing(group, folder) for group in unfinished}
    if any(missing.values()) or not archives:
        if not _holds_more(folder, groups(archives)):
            total = disk_bytes or sum((f.bytes or 0) + (f.extracted_bytes or 0) for f in archives)
            raise _by_hand([*chain(*missing.values())], folder, steps, total)
        log.info("%s: what is there is taken as it is", folder)
    todo = [file for group in unfinished if not missing[group.name] for file in group.files]
    if todo:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / ".lock", f"filling {folder}"):
            check_space(folder, _needed(todo, folder), str(folder))
            if steps:
                log.info("%s", steps)  # its licence
            download(todo, folder)
            extract(todo, folder)


def _missing(group: Group, folder: Path) -> list[str]:
    """The files that a person has yet to bring."""
    paths = {file.file: folder / FOLDER / file.file for file in group.files if not file.urls}
    return [name for name, path in paths.items() if not path.exists()]


def _by_hand(missing: list[str], folder: Path, steps: str, total: int) -> UserError:
    """The error for what only a person can get: the steps, the place, and the room it takes."""
    what = f"{', '.join(missing)} in {folder / FOLDER}" if missing else f"files in {folder}"
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = human(shutil.disk_usage(existing).free)
    room = f"{human(total)} of disk are needed, {free} are free" if total else f"{free} are free"
    return UserError(f"expected: {what}, which must be fetched by hand: {steps} ({room})")


def _holds_more(folder: Path, ours: list[Group]) -> bool:
    """Whether somebody has put something else in the folder."""
    names = {FOLDER, *(group.target(folder).name for group in ours)}
    found = folder.iterdir() if folder.is_dir() else ()
    return any(path.name not in names and not path.name.startswith(".") for path in found)


def _needed(files: list[Archive], folder: Path) -> int:
    """Bytes still to be written, as far as the settings tell."""
    needed = sum(file.extracted_bytes or 0 for file in files)
    for file in files:
        paths = [folder / FOLDER / f"{file.file}{suffix}" for suffix in ("", ".part")]
        there = sum(path.stat().st_size for path in paths if path.exists())
        needed += max((file.bytes or 0) - there, 0)
    return needed
