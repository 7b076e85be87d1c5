"""Aggregators against naive ones, written coordinate by coordinate and row by row from the papers."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch

import raysim as rs
from raysim.aggregators.krum import squares
from raysim.core import streams
from tests.aggregators.rows import KEY, combined, rows

SHAPES = [(1, 7), (2, 5), (5, 1), (8, 13), (9, 40), (30, 3)]


def naive_median(x):
    out = []
    for column in x.T:
        values = sorted(column.tolist())
        n = len(values)
        out.append(values[n // 2] if n % 2 else (values[n // 2 - 1] + values[n // 2]) / 2)
    return np.array(out)


def naive_trimmed(x, b):
    return np.array([np.mean(sorted(column.tolist())[b : len(column) - b]) for column in x.T])


def naive_krum(x, f, m):
    scores = []
    for i in range(len(x)):
        distances = sorted(float(np.sum((x[i] - x[j]) ** 2)) for j in range(len(x)) if j != i)
        scores.append(sum(distances[: len(x) - f - 2]))
    best = sorted(range(len(x)), key=lambda i: (scores[i], i))[:m]
    return np.mean([x[i] for i in best], axis=0)


def naive_weiszfeld(x, steps, nu):
    z = np.zeros(x.shape[1])
    for _ in range(steps):
        weights = [1 / max(nu, math.dist(z, row)) for row in x]
        z = sum(w * row for w, row in zip(weights, x, strict=True)) / sum(weights)
    return z


def naive_clipping(x, tau, steps, v):
    for _ in range(steps):
        moves = [(row - v) * min(1.0, tau / max(math.dist(row, v), 1e-300)) for row in x]
        v = v + sum(moves) / len(x)
    return v


@pytest.mark.parametrize("shape", SHAPES)
def test_median(shape):
    x_CP = rows(*shape)
    np.testing.assert_allclose(
        combined(rs.aggregators.Median(), x_CP), naive_median(x_CP.double().numpy()), rtol=1e-6, atol=1e-7
    )


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two():
    x_CP = torch.tensor([[5.0, 1.0], [1.0, 1.0], [9.0, 2.0], [2.0, 0.0]])
    assert combined(rs.aggregators.Median(), x_CP).tolist() == [3.5, 1.0]


@pytest.mark.parametrize(
    ("shape", "trim", "b"),
    [((7, 9), 0, 0), ((7, 9), 3, 3), ((8, 9), 3, 3), ((9, 4), 0.1, 1), ((10, 4), 0.1, 1), ((30, 4), 0.1, 3)],
)
def test_trimmed_mean(shape, trim, b):
    x_CP = rows(*shape)
    got = combined(rs.aggregators.TrimmedMean(trim=trim), x_CP)
    np.testing.assert_allclose(got, naive_trimmed(x_CP.double().numpy(), b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("f", [0, 1, 3, 0.2])
@pytest.mark.parametrize("best", [1, 4])
def test_krum(f, best):
    for seed in range(5):
        x_CP = rows(12, 6, seed)
        got = combined(rs.aggregators.Krum(byzantine=f, best=best), x_CP)
        expected = naive_krum(x_CP.double().numpy(), 3 if f == 0.2 else f, best)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
        assert best > 1 or (got == x_CP).all(1).any()


def test_krum_takes_the_earlier_of_equal_rows():
    """Two pairs, as close to each other: both rows of each pair have the same score."""
    x_CP = torch.tensor([[9.0], [0.0], [1.0], [20.0], [21.0]])
    assert combined(rs.aggregators.Krum(byzantine=1), x_CP).item() == naive_krum(x_CP.numpy(), 1, 1) == 1.0
    x_CP = torch.tensor([[3.0], [1.0], [-1.0], [-3.0]])
    assert combined(rs.aggregators.Krum(byzantine=0), x_CP).item() == 1.0
    assert combined(rs.aggregators.Krum(byzantine=0), x_CP.flip(0)).item() == -1.0


@pytest.mark.parametrize(("common", "far"), [(0.0, 1e9), (1e4, 1.0), (1e4, 1e15)])
def test_krum_loses_no_digits_to_what_rows_share_or_to_huge_ones(common, far):
    """Differences of 1e-2 among rows of 1e4, beside hostile ones as long as can be: distances are those of float64."""
    shared_P = rows(1, 50, 2)[0] * common
    x_CP = rows(11, 50) * (1e-2 if common else 1) + shared_P
    x_CP[:4] = rows(4, 50, 1) * far + shared_P
    expected = naive_krum(x_CP.double().numpy(), 4, 1)
    got = combined(rs.aggregators.Krum(byzantine=4), x_CP)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    honest = x_CP[4:].double()
    exact_CC = (honest[:, None] - honest[None]).square().sum(2).fill_diagonal_(math.inf)
    torch.testing.assert_close(squares(x_CP)[4:, 4:], exact_CC, rtol=1e-9, atol=0)
    assert (got == x_CP[4:]).all(1).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("steps", "nu"), [(1, 1e-6), (8, 1e-6), (8, 2.0)])
def test_geometric_median(shape, steps, nu):
    x_CP = rows(*shape) + 1
    got = combined(rs.aggregators.GeometricMedian(iterations=steps, smoothing=nu), x_CP)
    np.testing.assert_allclose(got, naive_weiszfeld(x_CP.double().numpy(), steps, nu), rtol=1e-5, atol=1e-5)


def test_the_geometric_median_has_the_least_sum_of_distances():
    x_CP = rows(15, 4)
    total = lambda z: sum(math.dist(z, row) for row in x_CP.double().tolist())
    best = scipy.optimize.minimize(total, np.zeros(4), tol=1e-12).x
    got = combined(rs.aggregators.GeometricMedian(iterations=100), x_CP)
    np.testing.assert_allclose(got, best, atol=1e-4)
    assert math.dist(best, x_CP.mean(0).tolist()) > 0.01


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("tau", "steps"), [(0.5, 1), (0.5, 3), (3.0, 2)])
def test_centered_clipping(shape, tau, steps):
    x_CP, v_P = rows(*shape), rows(1, shape[1], 5)[0]
    v_P[0] = x_CP[0, 0]
    got = combined(rs.aggregators.CenteredClipping(radius=tau, iterations=steps), x_CP, v_P)
    expected = naive_clipping(x_CP.double().numpy(), tau, steps, v_P.double().numpy())
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_clipping_at_a_huge_radius_is_the_mean_and_a_row_at_the_centre_counts():
    x_CP = rows(9, 6)
    clipping = rs.aggregators.CenteredClipping(radius=1e6, iterations=1)
    torch.testing.assert_close(combined(clipping, x_CP), x_CP.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(combined(clipping, x_CP, x_CP[2]), x_CP.mean(0), rtol=1e-5, atol=1e-6)


def test_clipping_goes_on_where_it_was():
    """Two rounds of one step are one round of two; far rows are reached at last, a little every round."""
    x_CP = rows(9, 6) + 5
    one, two = (rs.aggregators.CenteredClipping(radius=0.4, iterations=k) for k in (1, 2))
    once = combined(one, x_CP)
    assert once.norm() <= 0.4 + 1e-6
    torch.testing.assert_close(combined(one, x_CP, once), combined(two, x_CP))
    wide, v_P = rs.aggregators.CenteredClipping(radius=4.0), torch.zeros(6)
    gaps = []
    for _ in range(30):
        v_P = combined(wide, x_CP, v_P)
        gaps.append((v_P - x_CP.mean(0)).norm().item())
    assert gaps[0] > 1
    assert gaps[-1] < 0.1
    assert all(b <= a + 1e-5 for a, b in itertools.pairwise(gaps))


@pytest.mark.parametrize(("n", "size"), [(6, 2), (7, 2), (7, 3), (10, 4), (5, 1)])
def test_bucketing(n, size):
    """Buckets of a random order, the last one of what is left; then the median of their means."""
    x_CP = rows(n, 8)
    order = streams.permutation(streams.key(KEY, "buckets"), n).tolist()
    assert sorted(order) == list(range(n))
    buckets = [order[a : a + size] for a in range(0, n, size)]
    means = np.stack([np.mean([x_CP[i].double().numpy() for i in bucket], axis=0) for bucket in buckets])
    got = combined(rs.aggregators.Bucketing(aggregator=rs.aggregators.Median(), size=size), x_CP)
    np.testing.assert_allclose(got, naive_median(means), rtol=1e-5, atol=1e-6)


def test_buckets_are_dealt_anew_with_every_key_and_evenly():
    """With buckets of two of four rows there are three pairings, each as likely."""
    x_CP = torch.tensor([[0.0], [1.0], [10.0], [100.0]])
    pairs = rs.aggregators.Bucketing(aggregator=rs.aggregators.TrimmedMean(trim=0))
    spread = rs.aggregators.Bucketing(aggregator=First())
    seen = [spread.combine(x_CP, streams.key(3, i), torch.zeros(1)).item() for i in range(600)]
    values, counts = np.unique(seen, return_counts=True)
    assert sorted(values) == [0.5, 5.0, 5.5, 50.0, 50.5, 55.0]
    assert counts.min() > 60  # 100 expected of each
    assert combined(pairs, x_CP).item() == pytest.approx(x_CP.mean().item())


class First(rs.aggregators.Aggregator):
    """The first row."""

    def combine(self, rows_CP, key, before_P):
        return rows_CP[0]


def test_bucketing_keeps_what_its_aggregator_keeps():
    inner = rs.aggregators.CenteredClipping(radius=0.3)
    outer = rs.aggregators.Bucketing(aggregator=inner, size=1)
    assert outer.keeps
    assert not rs.aggregators.Bucketing(aggregator=rs.aggregators.Median()).keeps
    x_CP, v_P = rows(6, 4), rows(1, 4, 3)[0]
    torch.testing.assert_close(combined(outer, x_CP, v_P), combined(inner, x_CP, v_P), rtol=1e-5, atol=1e-6)
