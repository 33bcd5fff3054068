"""The one kind of error that a user's mistake raises, and the sentence that helps them on."""

import difflib
import lzma
import struct
import zlib
from collections.abc import Iterable
from tokenize import TokenError
from zipfile import BadZipFile

# What `np.load` raises on a damaged file, or whoever looks for an array in it.
DAMAGED_ARRAYS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TokenError,
    BadZipFile,
    lzma.LZMAError,
    struct.error,
    zlib.error,
)


class UserError(ValueError):
    """A mistake in what was asked for; the command line prints it as one line and exits with 2."""


def check_utf8(word: str) -> None:
    """Raise UserError for an argument that run.json, cards and pages could not quote."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UserError(f"{word} is not valid UTF-8; rename the file or folder") from None


def unknown(what: str, name: str, valid: Iterable[str]) -> UserError:
    """The error for a mistyped name: what it was, and the nearest names that would be valid."""
    choices = sorted(valid)
    nearest = difflib.get_close_matches(name, choices, n=3, cutoff=0.5) or choices[:8]
    hint = ", ".join(nearest) if choices else "none exist"
    return UserError(f"unknown {what} {name!r}; did you mean: {hint}?")
