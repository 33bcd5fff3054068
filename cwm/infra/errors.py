"""Errors that users see as one line: their own mistakes and the limits of the machine."""

import difflib
import errno
import os
import reprlib
import struct
import zlib
from collections.abc import Iterable
from lzma import LZMAError
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

from pydantic import ValidationError

# What `np.load`, or reading an array from its result, raises for a damaged file.
_BUILTIN = (OSError, ValueError, LookupError, TypeError, EOFError, OverflowError, RuntimeError)
_OTHER = (SyntaxError, TokenError, BadZipFile, LZMAError, struct.error, zlib.error)
DAMAGED_ARRAYS = (*_BUILTIN, *_OTHER)
OS_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EROFS: "mount it writable",
    errno.EACCES: "change its owner or permissions",
    errno.EPERM: "change its owner or permissions",
    errno.EIO: "check the disk for I/O errors",
    errno.EISDIR: "move away this folder, which has the name of a file",
    errno.ENOTDIR: "move away the file that has the name of a folder",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: this machine has too many open files",
    errno.ENOMEM: "free memory, or run fewer jobs at once",
    errno.EAGAIN: "raise the process limit (ulimit -u), or run fewer jobs at once",
    errno.EINTR: "free memory, or run fewer jobs at once; if it happens again, move this file away",
}
OUT_OF_MEMORY = (  # in the messages of torch (CPU and GPU) and numpy
    "out of memory",
    "can't allocate memory",
    "Unable to allocate",
    "ALLOC_FAILED",
    os.strerror(errno.ENOMEM),
)


EXTRAS = {  # module -> the extra of this package that installs it (pyproject.toml)
    "av": "h264",
    "huggingface_hub": "hub",
    "metaworld": "sim",
    "mlflow": "tracking",
    "mujoco": "sim",
    "snakemake": "workflow",
    "tensorboard": "tensorboard",
}


class UserError(ValueError):
    """A user's mistake; the command line prints it as one line and exits with its status."""

    status = 2


class LostRankError(UserError):
    """Another rank of a distributed run has ended, and reports why."""

    status = 3


def check_utf8(word: str) -> None:
    """Raise UserError for an argument that is not UTF-8, which JSON files could not hold."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UserError(f"{word} is not valid UTF-8; rename the file or folder") from None


def not_installed(module: str) -> str:
    """One line with the remedy for a missing module of EXTRAS."""
    return f"{module} is not installed: pip install 'contextwm[{EXTRAS[module]}]'"


def unknown(what: str, name: str, valid: Iterable[str]) -> UserError:
    """The error for an unknown name, with the nearest valid names."""
    choices = sorted(valid)
    nearest = difflib.get_close_matches(name, choices, n=3, cutoff=0.5) or choices[:8]
    hint = f"did you mean: {', '.join(nearest)}?" if choices else "there is none"
    return UserError(f"unknown {what} {name!r}; {hint}")


def explain_validation(source: str, error: ValidationError) -> str:
    """The first mistake that pydantic found: source, key, value and valid values."""
    first = error.errors(include_url=False)[0]
    where = f"{source}: {'.'.join(map(str, first['loc'])) or 'content'}"
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where} is an unknown key"
    if first["type"] in ("missing", "missing_argument"):
        return f"{where} is missing"
    return f"{where} is {reprlib.repr(first['input'])}: {first['msg']}"


def explain_system_error(error: BaseException) -> str | None:
    """One line with a remedy for an OSError or a lack of memory; None for any other error."""
    if isinstance(error, OSError) and error.errno in OS_REMEDIES:
        place = error.filename2 or error.filename or Path.cwd()
        remedy = OS_REMEDIES[error.errno]
        return f"{error.strerror}: {place}; {remedy}, then run the same command again to resume"
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        first = next(iter(str(error).splitlines()), "") or "no details"
        return (
            f"out of memory ({first.strip()[:160]}); run fewer jobs at once, or use a smaller batch"
            " (pretrain.batch, finetune.batch), shorter sequences or a smaller"
            " finetune.replay.capacity, which each start a new run"
        )
    return None
