"""Checksums and sizes of files, and files that are written whole or not at all."""

import hashlib
import json
import shutil
from pathlib import Path

from cwm.errors import UserError


def sha256(path: Path) -> str:
    """Checksum of a regular file; OSError for anything else (a pipe would block for ever)."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: object) -> None:
    """Write a file that is either the old one or the whole new one, and says nothing of time."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    part.replace(path)


def human(size: float) -> str:
    """`19.4 GB`: bytes in powers of 1000, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, "TB"
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise UserError if the disk of a folder cannot take so many bytes more."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{what} needs {human(needed)}, and {human(free)} are free in {folder};"
            " make room, and the same command goes on from what is there"
        )
