"""Atomic writes, checksums, locks and directory walks."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from cwm.infra.errors import UserError

log = logging.getLogger(__name__)
TEMPORARY = ".tmp-"  # prefix of temporary files


def sha256(path: Path) -> str:
    """Hash a regular file; OSError for anything else (reading a pipe would block)."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; its file then replaces `path` atomically.

    After an exception `path` is unchanged. The temporary path has the same suffix, and `walk` skips
    it.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # `replace` keeps it if both are links to one file


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(path, text.encode())


def relative(path: Path, folder: Path) -> str:
    """Return a path relative to a folder; symbolic links are resolved only where necessary.

    If `folder` is behind a symbolic link, `..` leads out of the link's target.
    """
    by_name = os.path.relpath(path, folder)
    if (folder / by_name).resolve() == path.resolve():
        return by_name
    return os.path.relpath(path.resolve(), folder.resolve())


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder below a root with the names of its files; hidden entries are skipped.

    Symbolic links to folders are followed last. Skipped with a warning: broken links, links to a
    folder that contains or is inside a folder already listed (this ends cycles), and unreadable
    folders.
    """
    listed: list[Path] = []
    tops = [root]
    while tops:
        top = tops.pop(0)
        real = top.resolve()
        twin = next((x for x in listed if x in (real, *real.parents) or real in x.parents), None)
        if twin is not None:
            log.warning("%s is skipped: it links to %s; %s is listed", top, real, twin)
            continue
        listed.append(real)
        for name, folders, files in os.walk(top, onerror=_warn):
            folder = Path(name)
            folders[:] = sorted(x for x in folders if x[0] != ".")
            tops += [folder / x for x in folders if (folder / x).is_symlink()]  # not in os.walk
            files = sorted(x for x in files if x[0] != ".")
            for path in (folder / x for x in files):
                if path.is_symlink() and not path.exists():
                    log.warning("%s is a broken link", path)
            yield folder, files


def _warn(error: OSError) -> None:
    log.warning("%s is skipped: %s", error.filename, error.strerror)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically, with sorted keys: equal content gives equal bytes."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def human(size: float) -> str:
    """Format bytes in powers of 1000, for example `19.4 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, "TB"
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise UserError if the disk of a folder has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{what} needs {human(needed)}, and {human(free)} are free in {folder};"
            " make room, then run the same command to resume"
        )


def file_lock(path: Path, doing: str) -> TextIO:
    """Lock a file until it is closed or this process ends, even by SIGKILL.

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
            pass  # the process that held it deleted it
        lock.close()


@contextmanager
def locked_folder(folder: Path, doing: str) -> Iterator[None]:
    """Make and lock a folder; delete the temporary files that a killed process left in it.

    Raises UserError as `file_lock` does, "another process is `doing` `folder`".
    """
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock", f"{doing} {folder}"):
        for leftover in folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds `file_lock` on a file."""
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
