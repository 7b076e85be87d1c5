"""Critical sizes from costs: exact on curves of known sizes, intervals that hold the truth as often as they say."""

import math

import numpy as np
import pytest

from raysim.core.plugin import ConfigError
from tuning.regimes import fits

SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def sgd(m, star, a=30.0):
    return a * (1 + (star - 1) / m)


def mass(m, L1, L, mu, kappa_tilde):
    """√(κ_m κ̃_m) as in the paper."""
    L_m = L1 / m + (m - 1) / m * L
    return math.sqrt(L_m / mu * (kappa_tilde / m + (m - 1) / m))


def noisy(curve, seed, scatter):
    """The curve with log-normal errors."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return [
        value * math.exp(scatter * z) for value, z in zip(curve, rng.standard_normal(len(curve)), strict=True)
    ]


@pytest.mark.parametrize("star", [1.5, 6.0, 40.0, 300.0])
def test_one_size_is_found_exactly(star):
    found = fits.fit(SIZES, [sgd(m, star) for m in SIZES], 1)
    assert found.critical == pytest.approx([star], rel=1e-3)
    assert found.scale == pytest.approx(30, rel=1e-3)
    assert found.scatter < 1e-4
    assert found.curve(np.array([3.0, 7.0])) == pytest.approx([sgd(3, star), sgd(7, star)], rel=1e-3)


@pytest.mark.parametrize(
    ("L1", "L", "kappa_tilde"),
    [(4.0, 1.0, 66.0), (200.0, 2.0, 10.0), (12.0, 2.0, 6.0)],
    ids=["d=64", "swap", "equal"],
)
def test_two_sizes_are_those_of_mass(L1, L, kappa_tilde):
    found = fits.fit(SIZES, [mass(m, L1, L, 0.01, kappa_tilde) for m in SIZES], 2)
    assert found.critical == pytest.approx(sorted((L1 / L, kappa_tilde)), rel=2e-2)
    assert found.scale == pytest.approx(math.sqrt(L / 0.01), rel=1e-2)
    for size, (low, high) in zip(found.critical, found.intervals, strict=True):
        assert low <= size * 1.01
        assert high >= size * 0.99


def test_scaling_is_the_law_of_both_methods():
    m = np.array([1.0, 3.0, 50.0])
    assert fits.scaling(m, [6.0]) == pytest.approx([6.0, 1 + 5 / 3, 1.1])
    expected = [mass(v, 4.0, 1.0, 1.0, 66.0) for v in m]
    assert fits.scaling(m, [4.0, 66.0]) == pytest.approx(expected)


def test_slopes_tell_the_regimes():
    two = fits.fit(SIZES, [mass(m, 4.0, 1.0, 0.01, 4096.0) for m in SIZES], 2)
    assert two.slope(0.01) == pytest.approx(-1, abs=0.01)
    assert two.slope(128) == pytest.approx(-0.5, abs=0.03)
    assert two.slope(1e6) == pytest.approx(0, abs=0.01)


def test_an_end_out_of_sight_is_infinite():
    """Nothing but linear scaling: no upper end, for the size and for its interval."""
    linear = fits.fit(SIZES, [1e5 / m for m in SIZES], 1)
    assert linear.critical == (math.inf,)
    assert linear.intervals[0][1] == math.inf
    assert linear.intervals[0][0] > SIZES[-1]
    assert linear.curve(np.array(SIZES)) == pytest.approx([1e5 / m for m in SIZES], rel=0.02)
    assert linear.slope(10.0) == pytest.approx(-1, abs=1e-2)
    some = fits.fit(SIZES, noisy([sgd(m, 400.0) for m in SIZES], 0, 0.3), 1)
    assert some.intervals[0][1] > 400


def test_no_gain_at_all_is_a_size_of_one():
    flat = fits.fit(SIZES, [50.0] * len(SIZES), 1)
    assert flat.critical == pytest.approx([1.0])
    assert flat.scale == pytest.approx(50)


def test_two_sizes_that_noise_hides_are_one():
    """Where the same size twice fits as well, it is what is reported; where theirs is far apart, it is not."""
    same = fits.fit(SIZES, noisy([mass(m, 24.0, 1.0, 0.01, 24.0) for m in SIZES], 1, 0.06), 2)
    assert not same.apart
    assert same.critical[0] == same.critical[1] == pytest.approx(24, rel=0.3)
    assert same.intervals[0][0] < 24 < same.intervals[1][1]
    far = fits.fit(SIZES, noisy([mass(m, 4.0, 1.0, 0.01, 128.0) for m in SIZES], 1, 0.02), 2)
    assert far.apart


@pytest.mark.parametrize(("sizes", "truth"), [(1, [20.0]), (2, [4.0, 66.0])])
def test_intervals_hold_the_truth_as_often_as_they_say(sizes, truth):
    """100 curves with scatter of known kind: 95 % intervals miss 5 times on average, and more than 13 times with a
    probability below 1e-3 (binomial)."""
    curve, missed = 30 * fits.scaling(np.array(SIZES), truth), np.zeros(sizes, int)
    for seed in range(100):
        found = fits.fit(SIZES, noisy(curve, seed, 0.05), sizes)
        missed += [not low <= size <= high for size, (low, high) in zip(truth, found.intervals, strict=True)]
    assert (missed <= 13).all()
    assert missed.sum() > 0  # nor do they hold everything


@pytest.mark.parametrize("sizes", [SIZES, [1, 4, 16, 64]])
def test_scatter_that_seeds_account_for_is_no_other_curve(sizes):
    """The true law with seeds that differ by a quarter: refused 5 times of 100 on average, and more than 13 times with
    a probability below 1e-3; half of the time where nothing is known of the seeds."""
    law, refused, unknown = 30 * fits.scaling(np.array(sizes), [9.0]), 0, 0
    for seed in range(100):
        costs = [np.array(c) for c in zip(*(noisy(law, 2 * seed + i, 0.35) for i in range(2)), strict=True)]
        refused += not fits.fit(sizes, costs, 1).follows
        unknown += not fits.fit(sizes, [c.mean() for c in costs], 1).follows
    assert refused <= 13 < 25 < unknown


def test_a_curve_of_another_shape_is_refused_with_seeds_too():
    valley = [10 * (8 / m + m / 8) for m in SIZES]
    costs = [np.array(c) for c in zip(*(noisy(valley, i, 0.1) for i in range(3)), strict=True)]
    assert not fits.fit(SIZES, costs, 1).follows


def test_sizes_without_a_cost_are_left_out():
    cost = [sgd(m, 6.0) for m in SIZES]
    holes = [math.inf, *cost[1:5], math.nan, *cost[6:]]
    assert fits.fit(SIZES, holes, 1).critical == pytest.approx([6.0], rel=1e-3)


def test_too_few_measurements_are_refused():
    with pytest.raises(ConfigError, match="at least 4 sizes at which the target was reached, got 3"):
        fits.fit([1, 2, 4], [3.0, 2.0, 1.0], 2)
    with pytest.raises(ConfigError, match=r"1 critical size needs at least 3 .* got 2"):
        fits.fit([1, 2, 4], [3.0, math.inf, 1.0], 1)
