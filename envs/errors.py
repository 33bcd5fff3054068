"""The error of this package."""

import difflib
from collections.abc import Iterable


class EnvError(ValueError):
    """An invalid argument or action, or a missing or failed simulator."""


def unknown(what: str, name: str, valid: Iterable[str]) -> EnvError:
    """The error for an invalid name; suggests the nearest valid ones, else the first eight."""
    choices = sorted(valid)
    nearest = difflib.get_close_matches(name, choices, n=3, cutoff=0.4) or choices[:8]
    return EnvError(f"unknown {what} {name!r}; did you mean: {', '.join(nearest)}?")
