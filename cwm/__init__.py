"""ContextWM: contextualized world models, from videos to agents to figures."""

# Part of every run's identity: raise it when a change alters what a run computes.
NUMERICS = 4
