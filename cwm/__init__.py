"""ContextWM: contextualized world models, from videos to agents to figures.

`cwm.load(place)` returns a trained model; see `cwm.models`.
"""

import sys
from pathlib import Path
from typing import Any

# `envs` is the package beside this one, even if PYTHONPATH has another of that common name.
sys.path.insert(0, str(Path(__file__).parents[1]))

# Part of every run's identity: raise it when a change alters what a run computes.
NUMERICS = 6


def __getattr__(name: str) -> Any:
    """Import `load` at its first use, because it needs torch."""
    if name == "load":
        from cwm.models import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
