"""The simulation of a cluster in cases whose answer is known."""

import numpy as np
import pytest

from bench.cluster import Cluster, Job, parts, simulate

FAST = 1e30


def test_equal_jobs_end_in_rounds_of_the_number_of_cores():
    outcome = simulate([Job(0, 5, 0)] * 10, Cluster(4, FAST, FAST, FAST))
    np.testing.assert_allclose(outcome.finished, [5] * 4 + [10] * 4 + [15] * 2)
    assert outcome.busy == pytest.approx(50 / (4 * 15))


def test_transfers_share_the_bandwidth_and_a_link_limits_each():
    """100 and 300 bytes at 20 bytes/s: 10 bytes/s each until 10 s, then 20 for the other 200."""
    jobs = [Job(100, 0, 0), Job(300, 0, 0)]
    outcome = simulate(jobs, Cluster(2, 20, FAST, FAST))
    np.testing.assert_allclose(outcome.finished, [10, 20])
    assert (outcome.busy, outcome.moving) == (0, pytest.approx(1))
    limited = simulate(jobs, Cluster(2, 20, 10, FAST))
    np.testing.assert_allclose(limited.finished, [10, 30])


def test_a_job_reads_then_decodes_then_writes():
    outcome = simulate([Job(100, 7, 50)], Cluster(1, 10, FAST, FAST))
    np.testing.assert_allclose(outcome.finished, [10 + 7 + 5])


def test_slow_submission_bounds_the_time():
    outcome = simulate([Job(0, 3, 0)] * 100, Cluster(1000, FAST, FAST, 2))
    np.testing.assert_allclose(outcome.finished, np.arange(100) / 2 + 3)


def test_decoding_reaches_the_bound_of_the_storage_or_of_the_cores():
    jobs = parts(10_000, 100, 1, 0, 1, 0)
    compute = sum(job.seconds for job in jobs) / 10
    moved = sum(job.read + job.write for job in jobs)
    by_cores = simulate(jobs, Cluster(10, FAST, FAST, FAST)).finished.max()
    assert compute <= by_cores < 1.2 * compute
    by_storage = simulate(jobs, Cluster(100, moved / 1000, FAST, FAST)).finished.max()
    assert 1000 <= by_storage < 1100  # storage idles while the first and last jobs decode


def test_stragglers_and_failures_take_the_time_they_were_given():
    base, slow = (parts(100_000, 1000, 1, share, 5, 0) for share in (0, 0.1))
    ratio = np.array([x.seconds / y.seconds for x, y in zip(slow, base, strict=True)])
    assert set(np.round(ratio, 6)) == {1, 5}
    assert 60 < (ratio == ratio.max()).sum() < 140
    failed = parts(100_000, 1000, 1, 0, 5, 1)
    lost = np.array([x.seconds / y.seconds for x, y in zip(failed, base, strict=True)]) - 1
    assert 0.45 < lost.mean() < 0.55
