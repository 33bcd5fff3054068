"""Statistics against hand-computed values, scipy and published numbers."""

import numpy as np
import pytest
from scipy import stats

from cwm.analysis import statistics as st


def iqm(scores):
    return float(st.interquartile_mean(np.array(scores, float), np.ones(len(scores))))


def test_interquartile_mean_by_hand():
    assert iqm([0, 1, 2, 3, 4, 5, 6, 7]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert iqm([100, 1, 2, 3, -50]) == pytest.approx(2)  # one of five is trimmed at each end
    assert iqm([1, 4, 4]) == pytest.approx(3)  # a quarter of three rounds down to none


@pytest.mark.parametrize("n", range(1, 22))
def test_interquartile_mean_is_scipys_trimmed_mean(n):
    scores = np.random.default_rng(n).normal(size=(3, n))
    expected = stats.trim_mean(scores, 0.25, axis=1)
    np.testing.assert_allclose(st.interquartile_mean(scores, np.ones(n)), expected)


def test_tasks_have_equal_weight_whatever_their_seeds():
    many, few = np.zeros(6), np.ones(2)
    assert st.estimate([many, few], st.mean)[0] == pytest.approx(0.5)
    assert st.estimate([many, few], st.interquartile_mean)[0] == pytest.approx(0.5)


def test_final_score_and_area_under_curve():
    evaluations = np.array([0.0, 1.0, 4.0, 6.0])
    assert st.LAST_EVALUATIONS == 2
    assert st.final_score(evaluations) == 5.0
    assert st.area_under_curve(evaluations) == 2.75
    assert st.final_score(evaluations[:1]) == 0.0


def test_a_curve_is_interpolated_and_never_extrapolated():
    on_grid = st.on_grid(np.array([10, 20]), np.array([1.0, 3.0]), np.array([5, 10, 15, 20, 25]))
    np.testing.assert_array_equal(on_grid, [np.nan, 1, 2, 3, np.nan])


def test_interval_of_few_seeds_by_counting():
    """Resampling {0, 0, 0, 1}: P(mean 0) = 0.32, P(mean >= 3/4) = 0.051, P(mean 1) = 0.004."""
    assert st.estimate([np.array([0.0, 0, 0, 1])], st.mean) == (0.25, 0.0, 0.75)


def test_interval_is_scipys_percentile_bootstrap():
    scores = np.random.default_rng(0).normal(size=12)
    other = stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=20000, rng=1)
    _, low, high = st.estimate([scores], st.mean)
    assert low == pytest.approx(other.confidence_interval.low, abs=0.03)
    assert high == pytest.approx(other.confidence_interval.high, abs=0.03)


def test_seeds_are_resampled_within_tasks_only():
    """Two tasks without spread: only unstratified resampling would give an interval."""
    assert st.estimate([np.zeros(4), np.ones(4)], st.mean) == (0.5, 0.5, 0.5)


def test_one_seed_has_no_interval():
    value, low, high = st.estimate([np.array([1.0, 2.0]), np.array([6.0])], st.mean)
    assert value == pytest.approx(3.75)
    assert np.isnan([low, high]).all()
    assert np.isnan(st.improvement([np.array([1.0])], [np.array([0.0, 0.5])])[1:]).all()


def test_difference_by_hand():
    """Both sides are resampled: {0, 1} minus {0, 1} is -1 or 1 with probability 1/16 each."""
    assert st.difference([np.array([3.0, 3])], [np.array([1.0, 1])], st.mean) == (2.0, 2.0, 2.0)
    sides = [np.array([0.0, 1])], [np.array([0.0, 1])]
    assert st.difference(*sides, st.mean) == (0.0, -1.0, 1.0)
    value, *interval = st.difference([np.array([3.0])], [np.array([1.0, 2])], st.mean)
    assert value == 1.5
    assert np.isnan(interval).all()


def test_improvement_by_hand():
    """1 against 1 and 3: a tie and a loss; 2 against them: a win and a loss."""
    first = [np.array([1.0, 2.0])], [np.array([1.0, 3.0])]
    assert st.improvement(*first)[0] == 1.5 / 4
    both = [*first[0], np.array([5.0, 5.0])], [*first[1], np.array([1.0, 2.0, 3.0])]
    assert st.improvement(*both)[0] == (1.5 / 4 + 1) / 2


def test_improvement_interval():
    certain = [np.array([3.0, 4.0])], [np.array([1.0, 2.0])]
    assert st.improvement(*certain) == (1.0, 1.0, 1.0)
    value, low, high = st.improvement([np.array([0.0, 2.0])], [np.array([1.0, 1.0])])
    assert (value, low, high) == (0.5, 0.0, 1.0)


# From APV's released Meta-world scores: means over 8 seeds per task, in the order
# button-press-topdown-wall, dial-turn, door-lock, drawer-open, lever-pull, reach. Means over tasks
# follow from them; interquartile means and intervals do not.
PUBLISHED = {
    ("DreamerV2", "final"): ([0.975, 0.113, 0.875, 0.813, 0.100, 0.700], 0.596),
    ("APV", "final"): ([1.00, 0.575, 0.988, 1.00, 0.675, 0.900], 0.856),
    ("DreamerV2", "AUC"): ([0.523, 0.141, 0.660, 0.420, 0.018, 0.481], 0.374),
    ("APV", "AUC"): ([0.610, 0.371, 0.773, 0.661, 0.266, 0.661], 0.557),
    ("DreamerV2", "at 95k"): ([0.200, 0.125, 0.575, 0.250, 0.000, 0.388], 0.256),
    ("APV", "at 95k"): ([0.738, 0.338, 0.850, 0.588, 0.100, 0.700], 0.552),
}


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=map(" ".join, PUBLISHED))
def test_mean_over_tasks_equals_the_published_mean(row):
    of_tasks, over_tasks = row
    spread = np.array([-0.01, 0.01])  # of the seeds, whose scores are not published
    value, *_ = st.estimate([mean + spread for mean in of_tasks], st.mean)
    assert value == pytest.approx(over_tasks, abs=0.001)


@pytest.mark.parametrize("sizes", [(2, 3), (5, 5), (10, 4)])
def test_welch_is_scipys(sizes):
    first, second = (np.random.default_rng(n).normal(n, n, n) for n in sizes)
    test = stats.ttest_ind(first, second, equal_var=False)
    expected = (first.mean() - second.mean(), *test.confidence_interval(0.95), test.pvalue)
    assert st.welch(first, second) == pytest.approx(expected)


def test_welch_of_too_few_or_equal_scores_has_no_interval():
    one, same, varied = np.array([3.0]), np.array([1.0, 1.0]), np.array([0.0, 2.0])
    assert st.welch(one, varied) == pytest.approx((2, np.nan, np.nan, np.nan), nan_ok=True)
    assert st.welch(same, same + 1) == pytest.approx((-1, np.nan, np.nan, np.nan), nan_ok=True)
    assert st.welch(same, one[:0]) == pytest.approx((np.nan,) * 4, nan_ok=True)
    assert st.welch(same, varied)[3] == pytest.approx(1)  # one constant side is enough


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.04 times 3, 2, 1; the last is raised to the one before."""
    assert st.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert st.holm([0.6, np.nan, 0.5]) == pytest.approx([1, np.nan, 1], nan_ok=True)
