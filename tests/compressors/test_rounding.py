"""QSGD, natural, ternary, random-k: bounds that are met, bits, extremes of floats, refusals."""

import math

import numpy as np
import pytest
import torch

import raysim as rs
from tests.compressors.senders import SHAPES, P, rows, sender

c = rs.compressors
DRAWS = 4000


def error(compressor, x_P, draws=DRAWS):
    """Mean of ||C(x) - x||² / ||x||² and its standard error."""
    shapes = [x_P.shape]
    sent_CP, _ = compressor.apply(x_P.repeat(draws, 1), sender(draws, shapes))
    ratio = (sent_CP.double() - x_P).square().sum(1) / x_P.double().square().sum()
    return float(ratio.mean()), float(ratio.std()) / draws**0.5


def spread(d, levels, norm):
    """A row of d numbers for which QSGD's error is the largest that it can be."""
    if norm == "l2":  # all at the same place between levels; half way, as far as the norm allows
        v = np.full(d, 1.0)
        if d <= 4 * levels**2:  # |v_j| = ||v|| / √d lies half way only where s/√d is k + 1/2
            assert math.isclose(levels / math.sqrt(d) % 1, 0.5)
        return v
    n = d - 1
    v = np.full(d, (math.sqrt(levels**2 + n) - levels) / n)  # times the maximum, one level being 1/s
    v[0] = 1
    return v


@pytest.mark.parametrize(
    ("d", "levels", "norm"), [(64, 1, "l2"), (100, 3, "l2"), (36, 3, "l2"), (4, 3, "l2")]
)
def test_qsgds_bound_for_the_euclidean_norm_is_met(d, levels, norm):
    """d/(4s²) for d <= 4s² and √d/s - 1 beyond; and it is within the paper's min(d/s², √d/s)."""
    compressor = c.QSGD(levels=levels, bucket=None)
    shapes = [torch.Size((d,))]
    bound = compressor.error(shapes)
    mean, deviation = error(compressor, torch.from_numpy(spread(d, levels, norm).astype(np.float32)))
    assert mean == pytest.approx(bound, abs=5 * deviation + 1e-6)
    assert bound <= min(d / levels**2, math.sqrt(d) / levels)


@pytest.mark.parametrize(("d", "levels"), [(65, 1), (100, 3), (10, 7)])
def test_qsgds_bound_for_the_maximum_is_met(d, levels):
    compressor = c.QSGD(levels=levels, bucket=None, norm="max")
    mean, deviation = error(compressor, torch.from_numpy(spread(d, levels, "max").astype(np.float32)))
    assert mean == pytest.approx(compressor.error([torch.Size((d,))]), abs=5 * deviation + 1e-6)


def test_the_other_bounds_are_met():
    """By 4/3 for natural compression; by one number above equal ones for ternary; by any row for random-k."""
    alike = torch.full((65,), 1 / (1 + math.sqrt(65)))
    alike[0] = 1
    for compressor, x_P in [
        (c.Natural(), torch.full((50,), 4 / 3)),
        (c.Ternary(), alike),
        (c.RandomK(fraction=0.2), rows(1)[0]),
        (c.RandomK(fraction=0.2, scaled=False), rows(1)[0]),
    ]:
        mean, deviation = error(compressor, x_P)
        assert mean == pytest.approx(compressor.error([x_P.shape]), abs=5 * deviation + 1e-6)


# ---- bits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compressor", "bits"),
    [
        (c.QSGD(levels=1), 32 + 2 * P),
        (c.QSGD(levels=3, bucket=10), 10 * 32 + 3 * P),
        (c.QSGD(levels=4, bucket=99), 32 + 4 * P),
        (c.QSGD(levels=127, bucket=98), 2 * 32 + 8 * P),
        (c.Natural(), 9 * P),
        (c.Ternary(per_layer=False), 32 + 8 * 20),
        (c.Ternary(), 5 * 32 + 8 * 20),
        (c.RandomK(fraction=0.25), 25 * 32),
    ],
)
def test_bits(compressor, bits):
    assert P == 99
    assert compressor.apply(rows(2), sender(2))[1] == bits


# ---- extremes --------------------------------------------------------------------------------------------------


def test_natural_leaves_zero_and_powers_of_two_alone():
    powers = 2.0 ** torch.arange(-126, 128)
    x_CP = torch.cat([powers, -powers, torch.zeros(2)]).repeat(20, 1)
    assert torch.equal(c.Natural().apply(x_CP.clone(), sender(20, [x_CP.shape[1:]]))[0], x_CP)


def test_natural_on_numbers_too_small_for_an_exponent():
    """Zero or 2^-126, right on average."""
    small = 3 * 2.0**-128
    sent_CP, _ = c.Natural().apply(torch.full((400, 50), small), sender(400, [torch.Size((50,))]))
    assert set(sent_CP.unique().tolist()) == {0.0, 2.0**-126}
    share = float((sent_CP != 0).double().mean())
    assert share == pytest.approx(0.75, abs=5 * math.sqrt(0.75 * 0.25 / 20_000))


def test_natural_on_what_is_not_finite():
    x_CP = torch.tensor([[float("inf"), float("-inf"), float("nan"), 3.0e38]]).repeat(50, 1)
    sent_CP, _ = c.Natural().apply(x_CP, sender(50, [torch.Size((4,))]))
    assert torch.equal(sent_CP[:, :2], torch.tensor([[float("inf"), float("-inf")]]).expand(50, 2))
    assert not sent_CP[:, 2].isfinite().any()
    assert set(sent_CP[:, 3].tolist()) == {2.0**127, float("inf")}


@pytest.mark.parametrize("compressor", [c.QSGD(levels=3), c.QSGD(levels=3, norm="max"), c.Ternary()])
@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
def test_scale_does_not_matter(compressor, size):
    """Squares of such numbers are no float32s; the message is the same one, scaled."""
    x_CP = rows(3)
    one_CP = compressor.apply(x_CP.clone(), sender(3))[0]
    other_CP = compressor.apply(x_CP * size, sender(3))[0]
    torch.testing.assert_close(other_CP, one_CP * size, rtol=1e-4, atol=0)


def test_the_largest_number_arrives_as_it_is():
    """Where it is the norm."""
    x_CP = rows(4)
    at = x_CP.abs().argmax(1, keepdim=True)
    for compressor in (
        c.QSGD(levels=6, bucket=None, norm="max"),
        c.QSGD(levels=1, bucket=1),
        c.Ternary(per_layer=False),
    ):
        sent_CP, _ = compressor.apply(x_CP.clone(), sender(4))
        assert torch.equal(sent_CP.gather(1, at), x_CP.gather(1, at))


def test_a_layer_of_small_numbers_needs_a_scale_of_its_own():
    """Beside a large one with which it shares none, nearly all of it would become zero."""
    x_CP = rows(50)
    x_CP[:, : SHAPES[0].numel()] *= 1e4
    part = x_CP[:, SHAPES[0].numel() :]
    gone = []
    for per_layer in (True, False):
        sent_CP, _ = c.Ternary(per_layer=per_layer).apply(x_CP.clone(), sender(50))
        gone.append(float((sent_CP[:, SHAPES[0].numel() :] == 0).double().mean()))
    assert (part != 0).all()
    assert gone[0] < 0.8
    assert gone[1] > 0.98


def test_randomk_draws_every_position_alike():
    """Each in k/P of all draws (z-tests, confidence 1 - 1e-4 together); pairs too, as without replacement."""
    sent_CP, _ = c.RandomK(fraction=0.2).apply(torch.ones(DRAWS, 20), sender(DRAWS, [torch.Size((20,))]))
    hit_CP = (sent_CP != 0).double()
    assert (hit_CP.sum(1) == 4).all()
    assert (hit_CP.mean(0) - 0.2).abs().max() < 4.6 * math.sqrt(0.2 * 0.8 / DRAWS)
    pairs = (hit_CP.T @ hit_CP / DRAWS)[~torch.eye(20, dtype=torch.bool)]
    together = 4 / 20 * 3 / 19
    assert (pairs - together).abs().max() < 5.2 * math.sqrt(together * (1 - together) / DRAWS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: c.QSGD(levels=0), "QSGD.levels must be greater than or equal to 1, got 0"),
        (lambda: c.QSGD(levels=40_000), "QSGD.levels must be less than or equal to 32767, got 40000"),
        (lambda: c.QSGD(levels=2, bucket=0), "QSGD.bucket must be"),
        (lambda: c.QSGD(levels=2, norm="l1"), "QSGD.norm must be 'l2' or 'max', got 'l1'"),
        (lambda: c.Ternary(per_layer=3), "Ternary.per_layer must be"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(rs.ConfigError) as caught:
        make()
    assert words in str(caught.value)
