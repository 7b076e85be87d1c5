"""Laws of aggregators: what lies can do, what order, shifts and equal rows do; and what they refuse."""

import math

import pytest
import torch

import raysim as rs
from raysim import spec
from raysim.aggregators import (
    Aggregator,
    Bucketing,
    CenteredClipping,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    TrimmedMean,
)
from tests.aggregators.rows import KEY, combined, rows

N, F, P = 21, 6, 40
EVERY = [
    Mean(),
    Median(),
    TrimmedMean(trim=F),
    TrimmedMean(trim=0.3),
    Krum(byzantine=F),
    Krum(byzantine=F, best=N - F),
    GeometricMedian(iterations=60),
    CenteredClipping(radius=8.0, iterations=60),
    Bucketing(aggregator=Median()),
]
FOOLED = [Mean(), TrimmedMean(trim=F - 1), Bucketing(aggregator=TrimmedMean(trim=1))]


def test_every_aggregator_is_here():
    assert {type(a).__name__ for a in EVERY} == set(spec.classes(Aggregator))


def attacked(scale=1e6, count=F, seed=0):
    """Honest rows around (1, ..., 1), then hostile ones far away in random directions; in a random order."""
    x_CP = rows(N, P, seed) * 0.5 + 1
    far_CP = rows(count, P, seed + 1)
    x_CP[N - count :] = far_CP / far_CP.norm(dim=1, keepdim=True) * scale
    return x_CP[: N - count], x_CP[torch.randperm(N, generator=torch.Generator().manual_seed(seed))]


def furthest(point_P, rows_CP):
    return (rows_CP - point_P).norm(dim=1).max().item()


@pytest.mark.parametrize("aggregator", [Median(), TrimmedMean(trim=F), TrimmedMean(trim=0.28)], ids=repr)
@pytest.mark.parametrize("scale", [1.0, 1e6, 1e30, math.inf, math.nan])
def test_coordinatewise_rules_stay_between_honest_values(aggregator, scale):
    honest, all_rows = attacked(scale)
    out_P = combined(aggregator, all_rows)
    assert (out_P >= honest.amin(0)).all()
    assert (out_P <= honest.amax(0)).all()


@pytest.mark.parametrize("best", [1, 5, N - F])
@pytest.mark.parametrize("scale", [1.0, 1e6, 1e25, math.inf, math.nan])
def test_krum_stays_near_the_honest(best, scale):
    """The mean of rows each within √((n-f-2)/(n-2f-1)) honest diameters of an honest row."""
    honest, all_rows = attacked(scale)
    out_P = combined(Krum(byzantine=F, best=best), all_rows)
    diameter = torch.cdist(honest, honest).max().item()
    assert furthest(out_P, honest) <= diameter * (1 + math.sqrt((N - F - 2) / (N - 2 * F - 1)))
    if scale > 1:
        choices = honest if best > 1 else honest[(honest == out_P).all(1)]
        assert len(choices)
        assert (out_P >= choices.amin(0) - 1e-6).all()
        assert (out_P <= choices.amax(0) + 1e-6).all()


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e25, math.inf, math.nan])
@pytest.mark.parametrize("aggregator", [GeometricMedian(), GeometricMedian(iterations=60)], ids=repr)
def test_the_geometric_median_stays_near_the_honest(aggregator, scale):
    """Within 2 (1 - a) / (1 - 2 a) times the honest rows' radius around their mean."""
    honest, all_rows = attacked(scale)
    centre_P = honest.mean(0)
    bound = 2 * (1 - F / N) / (1 - 2 * F / N) * furthest(centre_P, honest)
    assert (combined(aggregator, all_rows) - centre_P).norm() <= bound


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e25, math.inf, math.nan])
def test_centered_clipping_comes_and_stays_near_the_honest(scale):
    """At most τ a step; and at rest no further than τ f / (n - f) from the mean of honest rows within τ."""
    honest, all_rows = attacked(scale)
    tau = 2 * furthest(honest.mean(0), honest)
    step = CenteredClipping(radius=tau, iterations=1)
    v_P = torch.zeros(P)
    for _ in range(60):
        before, v_P = v_P, combined(step, all_rows, v_P)
        assert (v_P - before).norm() <= tau * (1 + 1e-5)
    assert furthest(v_P, honest) < tau
    assert (v_P - honest.mean(0)).norm() <= tau * F / (N - F) * (1 + 1e-3)


def test_bucketing_needs_two_thirds_of_its_buckets_honest():
    """Five hostile rows spoil at most five of eleven buckets, whatever the order."""
    for seed in range(10):
        honest, all_rows = attacked(1e6, count=5, seed=seed)
        out_P = combined(Bucketing(aggregator=Median()), all_rows)
        assert furthest(out_P, honest) < 2 * torch.cdist(honest, honest).max().item()


@pytest.mark.parametrize("aggregator", FOOLED, ids=repr)
def test_beyond_its_breakdown_point_one_is_moved_anywhere(aggregator):
    _, all_rows = attacked(1e6)
    hostile = all_rows.norm(dim=1) > 1e5
    all_rows[hostile] = 1e6  # all in the same direction
    assert combined(aggregator, all_rows).norm() > 1e5


@pytest.mark.parametrize("aggregator", EVERY, ids=repr)
def test_equal_rows_give_that_row(aggregator):
    row_P = rows(1, P)[0]
    start_P = row_P if aggregator.keeps else None
    out_P = combined(aggregator, row_P.repeat(N, 1), start_P)
    torch.testing.assert_close(out_P, row_P, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("aggregator", EVERY, ids=repr)
def test_zero_rows_give_zero(aggregator):
    assert torch.equal(combined(aggregator, torch.zeros(N, P)), torch.zeros(P))


@pytest.mark.parametrize("aggregator", [a for a in EVERY if not isinstance(a, Bucketing)], ids=repr)
def test_the_order_of_rows_does_not_matter(aggregator):
    x_CP = rows(N, P)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    a, b = combined(aggregator, x_CP), combined(aggregator, x_CP[order])
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("aggregator", EVERY, ids=repr)
def test_shifted_rows_give_the_shifted_row(aggregator):
    """RFA's and clipping's only once they have come to rest, or started shifted too."""
    x_CP, shift_P = rows(N, P), 3 * rows(1, P, 4)[0]
    start_P = shift_P if aggregator.keeps else None
    moved = combined(aggregator, x_CP + shift_P, start_P)
    torch.testing.assert_close(moved, combined(aggregator, x_CP) + shift_P, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("aggregator", EVERY, ids=repr)
def test_scaled_rows_give_the_scaled_row(aggregator):
    if isinstance(aggregator, CenteredClipping):
        scaled = CenteredClipping(radius=2 * aggregator.radius, iterations=aggregator.iterations)
    else:
        scaled = aggregator
    x_CP = rows(N, P)
    torch.testing.assert_close(
        combined(scaled, 2 * x_CP), 2 * combined(aggregator, x_CP), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("aggregator", EVERY, ids=repr)
def test_wide_rows_are_worked_on_in_pieces(aggregator, monkeypatch):
    """The pieces' width changes no choice, and no number but by rounding."""
    x_CP = rows(N, 301)
    whole = combined(aggregator, x_CP)
    monkeypatch.setattr("raysim.aggregators.columns.PIECE", N * 16)
    torch.testing.assert_close(combined(aggregator, x_CP), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("aggregator", EVERY, ids=repr)
def test_the_same_rows_give_the_same_bits(aggregator):
    x_CP = rows(N, P)
    assert torch.equal(combined(aggregator, x_CP), combined(aggregator, x_CP.clone()))
    wide = torch.zeros(N, 2 * P)
    wide[:, :P] = x_CP
    torch.testing.assert_close(combined(aggregator, wide[:, :P]), combined(aggregator, x_CP))


@pytest.mark.parametrize("aggregator", EVERY, ids=repr)
def test_nothing_but_numbers_that_are_none_is_told_and_does_not_fail(aggregator):
    out_P = aggregator.combine(torch.full((N, P), math.nan), KEY, torch.zeros(P))
    assert out_P.isnan().all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TrimmedMean(trim=0.5), "TrimmedMean.trim must be"),
        (lambda: TrimmedMean(trim=-1), "TrimmedMean.trim must be"),
        (
            lambda: TrimmedMean(trim=3).fit(6),
            "drops 3 values at either end, which leaves nothing of 6. Use at most 2",
        ),
        (lambda: TrimmedMean(trim=0.45).fit(9), "TrimmedMean.trim=0.45 drops 5 values at either end"),
        (
            lambda: Krum(byzantine=2).fit(6),
            "Krum.byzantine=2 is 2 of 6 rows, which takes at least 2 f + 3 = 7",
        ),
        (lambda: Krum(byzantine=0.3).fit(5), "Krum.byzantine=0.3 is 2 of 5 rows"),
        (lambda: Krum(byzantine=2, best=9).fit(10), "Krum.best is 9, but with 2 of 10 rows hostile only 8"),
        (lambda: Krum(byzantine=2, best=0), "Krum.best must be greater than or equal to 1"),
        (lambda: GeometricMedian(iterations=0), "GeometricMedian.iterations must be"),
        (lambda: GeometricMedian(smoothing=0.0), "GeometricMedian.smoothing must be greater than 0"),
        (lambda: CenteredClipping(radius=-1.0), "CenteredClipping.radius must be greater than 0"),
        (lambda: Bucketing(aggregator=Median(), size=0), "Bucketing.size must be"),
        (lambda: Bucketing(aggregator=Median(), size=4).fit(4), "size=4 puts all 4 rows into one bucket"),
        (
            lambda: Bucketing(aggregator=Krum(byzantine=3)).fit(16),
            "Of 16 rows Bucketing makes 8 buckets of 2. Krum.byzantine=3 is 3 of 8 rows",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(rs.ConfigError) as error:
        make()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("aggregator", EVERY, ids=repr)
def test_what_can_work_is_not_refused(aggregator):
    aggregator.fit(N)
