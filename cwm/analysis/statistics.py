"""Statistics of scores, as pure functions of arrays.

The unit that is repeated is the seed: the episodes of one evaluation are averaged before any of
this. `strata` is one array of scores per task, (seeds,) each, seeds differing in number at will.
Definitions: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", section 4 (interquartile mean, stratified bootstrap, probability of improvement).
"""

from collections.abc import Callable, Sequence

import numpy as np

Strata = Sequence[np.ndarray]
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]  # scores (..., N), weights (N,) -> (...)

RESAMPLES = 5000
LEVELS = (0.025, 0.975)  # of a 95 % interval
LAST_EVALUATIONS = 2  # single evaluations dip, so a seed's final score averages this many


def mean(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the last axis."""
    return np.average(scores, axis=-1, weights=weights)


def interquartile_mean(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the lowest and the highest quarter.

    A quarter is floor(N / 4) of N scores, so that with equal weights this is
    `scipy.stats.trim_mean(scores, 0.25)`; with others that share of the weight is cut.
    """
    order = np.argsort(scores, axis=-1)
    weight = (weights / weights.sum())[order]
    top = np.cumsum(weight, axis=-1)
    cut = (scores.shape[-1] // 4) / scores.shape[-1]
    kept = np.clip(np.minimum(top, 1 - cut) - np.maximum(top - weight, cut), 0, None)
    return np.sum(kept * np.take_along_axis(scores, order, -1), -1) / np.sum(kept, -1)


def final_score(evaluations: np.ndarray) -> float:
    """One seed's evaluations in order, (T,), to the mean of its last `LAST_EVALUATIONS`."""
    return float(np.mean(evaluations[-LAST_EVALUATIONS:]))


def area_under_curve(evaluations: np.ndarray) -> float:
    """One seed's evaluations, (T,), to their mean: the area per step of an evenly spaced curve."""
    return float(np.mean(evaluations))


def on_grid(steps: np.ndarray, evaluations: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A seed's curve read at `grid`, (G,): linear between evaluations, NaN outside their range.

    A run that stopped early is thus absent from the later points instead of prolonged into them.
    """
    return np.interp(grid, steps, evaluations, left=np.nan, right=np.nan)


def estimate(strata: Strata, statistic: Statistic) -> tuple[float, float, float]:
    """`statistic` of the pooled scores, tasks weighing the same, with its 95 % interval.

    The interval is the percentile interval over resampling seeds within tasks. It is (NaN, NaN) if
    a task has a single seed, which says nothing about the spread between seeds.
    """
    weights = _weights(strata)
    value = float(statistic(np.concatenate(strata), weights))
    if min(len(scores) for scores in strata) < 2:
        return value, np.nan, np.nan
    resampled = np.concatenate(_resampled(strata, seed=0), axis=1)
    return value, *_percentiles(statistic(resampled, weights))


def difference(strata: Strata, minus: Strata, statistic: Statistic) -> tuple[float, float, float]:
    """`statistic` of the one minus that of the other, with its 95 % interval as in `estimate`."""
    value = estimate(strata, statistic)[0] - estimate(minus, statistic)[0]
    if min(len(scores) for scores in [*strata, *minus]) < 2:
        return value, np.nan, np.nan
    ours, theirs = (
        statistic(np.concatenate(_resampled(side, seed), axis=1), _weights(side))
        for seed, side in enumerate((strata, minus))
    )
    return value, *_percentiles(ours - theirs)


def improvement(strata: Strata, over: Strata) -> tuple[float, float, float]:
    """Mean over tasks of P(a seed of `strata` beats a seed of `over`), with its 95 % interval.

    A tie counts one half. Both sides are resampled; the interval is NaN as in `estimate`.
    """
    value = float(np.mean([_wins(x, y) for x, y in zip(strata, over, strict=True)]))
    if min(len(scores) for scores in [*strata, *over]) < 2:
        return value, np.nan, np.nan
    pairs = zip(_resampled(strata, seed=0), _resampled(over, seed=1), strict=True)
    return value, *_percentiles(np.mean([_wins(x, y) for x, y in pairs], axis=0))


def _weights(strata: Strata) -> np.ndarray:
    """Of the pooled scores, such that tasks weigh the same."""
    return np.concatenate([np.full(len(scores), 1 / len(scores)) for scores in strata])


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., N) and (..., M) to the share of the N x M pairs that x wins, (...)."""
    x, y = x[..., :, None], y[..., None, :]
    return np.mean((x > y) + 0.5 * (x == y), axis=(-2, -1))


def _resampled(strata: Strata, seed: int) -> list[np.ndarray]:
    """One (RESAMPLES, seeds) array per task; the fixed seed makes a figure the same twice."""
    rng = np.random.default_rng(seed)
    return [scores[rng.integers(len(scores), size=(RESAMPLES, len(scores)))] for scores in strata]


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, LEVELS)
    return float(low), float(high)
