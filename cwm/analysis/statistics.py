"""Statistics of scores, as pure functions of arrays.

The unit of replication is the seed: the episodes of one evaluation are averaged first. `strata` is
one array of scores per task, (seeds,) each; the number of seeds may differ between tasks.
Definitions: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", section 4 (interquartile mean, stratified bootstrap, probability of improvement).
"""

from collections.abc import Callable, Sequence

import numpy as np

Strata = Sequence[np.ndarray]
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]  # scores (..., N), weights (N,) -> (...)

RESAMPLES = 5000
QUANTILES = (0.025, 0.975)  # of a 95 % confidence interval
LAST_EVALUATIONS = 2  # single evaluations dip, so a seed's final score averages this many


def mean(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the last axis."""
    return np.average(scores, axis=-1, weights=weights)


def interquartile_mean(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the lowest and the highest quarter.

    A quarter is floor(N / 4) of N scores, so with equal weights this is
    `scipy.stats.trim_mean(scores, 0.25)`. Unequal weights are trimmed by the same share.
    """
    order = np.argsort(scores, axis=-1)
    weight = (weights / weights.sum())[order]
    top = np.cumsum(weight, axis=-1)
    cut = (scores.shape[-1] // 4) / scores.shape[-1]
    kept = np.clip(np.minimum(top, 1 - cut) - np.maximum(top - weight, cut), 0, None)
    return np.sum(kept * np.take_along_axis(scores, order, -1), -1) / np.sum(kept, -1)


def final_score(evaluations: np.ndarray) -> float:
    """Mean of the last `LAST_EVALUATIONS` of one seed's evaluations, (T,) in order."""
    return float(np.mean(evaluations[-LAST_EVALUATIONS:]))


def area_under_curve(evaluations: np.ndarray) -> float:
    """Mean of one seed's evaluations, (T,): the area per step of an evenly spaced curve."""
    return float(np.mean(evaluations))


def on_grid(steps: np.ndarray, evaluations: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Interpolate a seed's curve at `grid`, (G,); NaN outside its range.

    A run that stopped early is therefore absent from later points, not extrapolated.
    """
    return np.interp(grid, steps, evaluations, left=np.nan, right=np.nan)


def estimate(strata: Strata, statistic: Statistic) -> tuple[float, float, float]:
    """`statistic` of the pooled scores, with equal task weights, and its 95 % confidence interval.

    The interval is the percentile bootstrap interval, resampling seeds within tasks. It is
    (NaN, NaN) if a task has a single seed, because the spread between seeds is then unknown.
    """
    return _with_interval(lambda x: _pooled(x, statistic), strata)


def difference(strata: Strata, minus: Strata, statistic: Statistic) -> tuple[float, float, float]:
    """`statistic` of `strata` minus that of `minus`, with its interval as in `estimate`."""
    return _with_interval(lambda x, y: _pooled(x, statistic) - _pooled(y, statistic), strata, minus)


def welch(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float, float]:
    """Mean of the seeds `first` minus that of `second`, its 95 % interval, and the p value.

    The interval is Welch's t. With few seeds the percentile bootstrap misses the true difference
    too often, and Welch's t does not (docs/log.md, 2026-11-30). Interval and p value are NaN if a
    side has a single seed, or if no scores differ within either side; all four are NaN if a side
    has none.
    """
    from scipy.special import stdtr, stdtrit  # of Student's t

    if min(len(first), len(second)) == 0:
        return (np.nan,) * 4
    value = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) == 1 or np.ptp(first) == np.ptp(second) == 0:
        return value, np.nan, np.nan, np.nan
    squares = [np.var(side, ddof=1) / len(side) for side in (first, second)]  # standard errors
    error = sum(squares) ** 0.5
    freedom = error**4 / (squares[0] ** 2 / (len(first) - 1) + squares[1] ** 2 / (len(second) - 1))
    half = stdtrit(freedom, QUANTILES[1]) * error
    return value, value - half, value + half, 2 * float(stdtr(freedom, -abs(value) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p values of a family of tests for their number (Holm 1979); NaN stays NaN.

    Rejecting adjusted values below 5 % keeps the probability of any false rejection below 5 %.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not np.isnan(p))
    adjusted, largest = [np.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        adjusted[i] = largest = max(largest, min(1.0, (len(known) - rank) * p))
    return adjusted


def improvement(strata: Strata, over: Strata) -> tuple[float, float, float]:
    """Probability of improvement: mean over tasks of P(a seed of `strata` > a seed of `over`).

    A tie counts one half. Both sides are resampled for the interval, as in `estimate`.
    """
    return _with_interval(
        lambda x, y: np.mean([_wins(*task) for task in zip(x, y, strict=True)], axis=0),
        strata,
        over,
    )


def _with_interval(
    value_of: Callable[..., np.ndarray], *sides: Strata
) -> tuple[float, float, float]:
    """`value_of` the sides, and its interval; fixed seeds make figures reproducible."""
    value = float(value_of(*sides))
    if min(len(scores) for side in sides for scores in side) < 2:
        return value, np.nan, np.nan
    resampled = []
    for seed, side in enumerate(sides):
        rng = np.random.default_rng(seed)
        picks = [rng.integers(len(scores), size=(RESAMPLES, len(scores))) for scores in side]
        resampled.append([scores[pick] for scores, pick in zip(side, picks, strict=True)])
    low, high = np.quantile(value_of(*resampled), QUANTILES)
    return value, float(low), float(high)


def _pooled(strata: Strata, statistic: Statistic) -> np.ndarray:
    """`statistic` of the scores (..., seeds) of all tasks, with equal task weights, (...)."""
    seeds = [scores.shape[-1] for scores in strata]
    return statistic(np.concatenate(strata, axis=-1), np.repeat(1 / np.array(seeds), seeds))


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of the N x M pairs of (..., N) and (..., M) in which x is larger, (...)."""
    x, y = x[..., :, None], y[..., None, :]
    return np.mean((x > y) + 0.5 * (x == y), axis=(-2, -1))
