"""The one error that a user of the environments has to read."""

import difflib
from collections.abc import Iterable


class EnvError(ValueError):
    """A mistake in what was asked of an environment, or a missing thing that it needs."""


def unknown(what: str, name: str, valid: Iterable[str]) -> EnvError:
    """The error for a mistyped name: what it was, and the nearest names that would be valid."""
    choices = sorted(valid)
    nearest = difflib.get_close_matches(name, choices, n=3, cutoff=0.4) or choices[:8]
    return EnvError(f"unknown {what} {name!r}; did you mean: {', '.join(nearest)}?")
