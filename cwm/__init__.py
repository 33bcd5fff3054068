"""ContextWM: contextualized world models, from videos to agents to figures."""

import sys
from pathlib import Path

# `envs` is the package beside this one, even if PYTHONPATH has another of that common name.
sys.path.insert(0, str(Path(__file__).parents[1]))

# Part of every run's identity: raise it when a change alters what a run computes.
NUMERICS = 5
