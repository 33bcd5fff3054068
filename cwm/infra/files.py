"""Checksums and sizes of files, files that are written whole or not at all, and locks."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

from cwm.infra import json_file
from cwm.infra.errors import UserError

log = logging.getLogger(__name__)
TEMPORARY = ".tmp-"  # how the names of unfinished files begin
H = TypeVar("H")
R = TypeVar("R")


def sha256(path: Path) -> str:
    """Checksum of a regular file; OSError for anything else (a pipe would block for ever)."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; at the end its file replaces `path` atomically.

    After an error `path` is as it was. The name keeps its suffix, and is hidden from `walk`.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # also after replacing a hard link to the same file


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(path, text.encode())


def relative(path: Path, folder: Path) -> str:
    """The way to a path from a folder, by names where these lead there.

    Where the folder is reached by a symbolic link, `..` leads out of the place that the link points
    to; then the way leads between the real places.
    """
    by_name = os.path.relpath(path, folder)
    if (folder / by_name).resolve() == path.resolve():
        return by_name
    return os.path.relpath(path.resolve(), folder.resolve())


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder from a root on, with the names of its files; hidden ones are left out.

    Symbolic links to folders are followed, after the folders themselves. What is not listed is
    logged: a link that leads nowhere, or to a folder that contains another listed one or is part
    of one (so a cycle ends), and a folder that cannot be read.
    """
    listed, folders, links = [root.resolve()], [root], []
    while folders or links:
        if not folders:
            link = links.pop(0)
            real = link.resolve()
            twin = next(
                (x for x in listed if x in (real, *real.parents) or real in x.parents), None
            )
            if twin is not None:
                log.warning("%s is left out: it leads to %s; %s is listed", link, real, twin)
                continue
            listed.append(real)
            folders.append(link)
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            log.warning("%s is left out: %s", folder, error.strerror)
            continue
        names = []
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and path.is_dir():
                links.append(path)
            else:
                names.append(entry.name)
                if entry.is_symlink() and not path.exists():
                    log.warning("%s is a link that leads nowhere", path)
        yield folder, names


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically, with sorted keys: equal content gives equal bytes."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_lines(path: Path, head: object, rows: Iterable[object]) -> None:
    """Write a JSON Lines file atomically: a head, then rows, which are not held in memory."""
    with atomic_write(path) as temporary, temporary.open("w") as file:
        file.write(json.dumps(head) + "\n")
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read_lines(path: Path, head: type[H], row: type[R], command: str) -> Iterator[H | R]:
    """The head of such a file, then its rows, as they are asked for: of these types.

    Raises UserError, with the command that writes the file, when it is missing or not one.
    """
    remedy = f"run `{command}` again"
    try:
        with path.open(encoding="utf-8") as file:
            yield json_file.parse(file.readline(), head, f"line 1 of {path}", remedy)
            for number, line in enumerate(file, start=2):
                yield json_file.parse(line, row, f"line {number} of {path}", remedy)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; {remedy}") from error


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


def file_lock(path: Path, doing: str) -> TextIO:
    """Lock a file until it is closed or this process ends, however it ends.

    Raises UserError, "another process is `doing`", while another process holds the lock.
    """
    while True:
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        except BlockingIOError:
            raise UserError(f"another process is {doing}") from None
        except FileNotFoundError:
            pass  # its holder deleted it
        lock.close()
