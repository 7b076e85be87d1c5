"""Stochastic and private signs: probabilities, means, unbiasedness, bits, blocks, refusals.

Every statement about a mean over draws allows for a deviation that chance exceeds once in 10^9 (Hoeffding), so a test
that fails has found something.
"""

import math

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core import streams
from raysim.core.code import bits_of, pack, unpack
from tests.compressors.senders import hoeffding, in_blocks, rows, sender

SURE = 1 - 1e-9
DRAWS = 40_000
StochasticSign, DPSign = rs.compressors.StochasticSign, rs.compressors.DPSign


def drawn(compressor, row):
    """Mean over many clients that send the same row."""
    x_CP = torch.tensor(row).float().expand(DRAWS, -1)
    received_CP, _ = compressor.apply(x_CP.clone(), sender(DRAWS, [torch.Size([len(row)])]))
    return received_CP.double().mean(0).numpy()


def normal_cdf(t):
    return 0.5 * math.erfc(-t / math.sqrt(2))


# ---- sto-sign ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [5.0, 0.5, "max"])
@pytest.mark.parametrize("scaled", [False, True])
def test_equals_naive(bound, scaled):
    """Number by number with the same uniform numbers: +1 where u < (b + g) / (2b), g clipped to b."""
    x_CP, compressor = rows(4), StochasticSign(bound=bound, scaled=scaled)
    who = sender(4)
    u_CP = streams.uniform(streams.key(who.key_C, "sign"), x_CP.shape[1]).double()
    received_CP, _ = compressor.apply(x_CP.clone(), who)
    for c, row in enumerate(x_CP.double()):
        b = max(abs(float(v)) for v in row) if bound == "max" else bound
        for j, v in enumerate(row):
            chance = (b + min(max(float(v), -b), b)) / (2 * b)
            if abs(chance - u_CP[c, j]) > 1e-6:
                vote = 1 if u_CP[c, j] < chance else -1
                assert received_CP[c, j].item() == pytest.approx(vote * (b if scaled else 1))


def test_the_mean_of_votes_is_g_over_b():
    row = [0.0, 0.5, -1.0, 1.9, 2.0, -2.0, 3.0, -9.0]
    mean = drawn(StochasticSign(bound=2.0), row)
    np.testing.assert_allclose(mean, np.clip(row, -2, 2) / 2, atol=hoeffding(DRAWS, SURE))
    assert mean[4:].tolist() == [1, -1, 1, -1]  # certain at the bound and beyond
    assert abs(mean[1] - 0.25) < abs(mean[1])  # and the test would see g/b from 0


def test_scaled_votes_are_unbiased_within_the_bound():
    row = [0.0, 0.5, -1.0, 1.9, 3.0]
    mean = drawn(StochasticSign(bound=2.0, scaled=True), row)
    np.testing.assert_allclose(mean, np.clip(row, -2, 2), atol=hoeffding(DRAWS, SURE, 4.0))


def test_scaled_votes_by_the_rows_own_maximum_are_unbiased():
    """Mean g; mean square deviation P b² - ||g||², to the digit since every vote is ±b."""
    row = [0.1, -0.7, 1.5, 0.0]
    compressor = StochasticSign(bound="max", scaled=True)
    np.testing.assert_allclose(drawn(compressor, row), row, atol=hoeffding(DRAWS, SURE, 3.0))
    x_CP = torch.tensor(row).expand(DRAWS, -1)
    received_CP, _ = compressor.apply(x_CP.clone(), sender(DRAWS, [torch.Size([4])]))
    off_C = (received_CP - x_CP).double().square().sum(1)
    exact, width = 4 * 1.5**2 - sum(v * v for v in row), float(off_C.max() - off_C.min())
    assert off_C.mean() == pytest.approx(exact, abs=hoeffding(DRAWS, SURE, width))
    assert exact <= compressor.error([torch.Size([4])]) * sum(v * v for v in row)


def test_a_small_bound_gives_the_sign_and_a_large_one_a_coin():
    x_CP = rows(3)
    received_CP, _ = StochasticSign(bound=1e-6).apply(x_CP.clone(), sender(3))
    assert torch.equal(received_CP, x_CP.sign())
    assert np.abs(drawn(StochasticSign(bound=1e6), [1.0, -1.0])).max() < hoeffding(DRAWS, SURE) + 1e-6


def test_promises():
    """Only the scaled form with a bound that nothing exceeds is unbiased; its constant is met by a lone number."""
    shapes = [torch.Size([3, 4])]
    best = StochasticSign(bound="max", scaled=True)
    assert best.unbiased
    assert best.error(shapes) == 11
    for other in (
        StochasticSign(bound="max"),
        StochasticSign(bound=1.0, scaled=True),
        StochasticSign(bound=1.0),
    ):
        assert not other.unbiased
        assert other.error(shapes) is None
    lone = torch.zeros(1, 12)
    lone[0, 3] = -2.0
    received, _ = best.apply(lone.clone(), sender(1, shapes))
    assert (received - lone).square().sum() == 11 * 4  # whatever the draws
    assert received[0, 3] == -2


@pytest.mark.parametrize("scaled", [False, True])
def test_nothing_is_sent_for_nothing(scaled):
    """A row of zeros with its own maximum: coins, or zeros where they are scaled by it."""
    zero_CP = torch.zeros(200, 50)
    received, _ = StochasticSign(bound="max", scaled=scaled).apply(zero_CP, sender(200, [torch.Size([50])]))
    assert received.abs().unique().tolist() == [0.0 if scaled else 1.0]
    assert received.mean().abs() < hoeffding(200 * 50, SURE)


# ---- dp-sign -------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_normal_distribution():
    private = DPSign(epsilon=0.5, delta=1e-3, sensitivity=0.2)
    sigma = 0.2 / 0.5 * math.sqrt(2 * math.log(1.25 / 1e-3))
    assert private.sigma == pytest.approx(sigma)
    row = [0.0, 0.3 * sigma, -sigma, 2 * sigma, -20 * sigma]
    expected = [2 * normal_cdf(v / sigma) - 1 for v in row]
    np.testing.assert_allclose(drawn(private, row), expected, atol=hoeffding(DRAWS, SURE))


def test_is_the_sign_of_noised_numbers_number_by_number():
    private, x_CP, who = DPSign(epsilon=0.9, delta=1e-2, sensitivity=1.0), rows(4), sender(4)
    noise_CP = streams.normal(streams.key(who.key_C, "noise"), x_CP.shape[1]).double()
    noised_CP = x_CP.double() + 1.0 / 0.9 * math.sqrt(2 * math.log(125)) * noise_CP
    received_CP, _ = private.apply(x_CP.clone(), who)
    clear = noised_CP.abs() > 1e-5
    assert torch.equal(received_CP[clear].double(), noised_CP.sign()[clear])
    assert not torch.equal(received_CP, x_CP.sign())


def test_one_number_is_as_private_as_it_says():
    """P(bit | g) <= e^eps P(bit | g') + delta for numbers the sensitivity apart, from the drawn frequencies."""
    eps, delta = 0.5, 1e-2
    private = DPSign(epsilon=eps, delta=delta, sensitivity=1.0)
    up = (1 + drawn(private, [-0.5, 0.5])) / 2
    slack = 3 * hoeffding(DRAWS, SURE, 1.0)
    for a, b in ((up[0], up[1]), (up[1], up[0]), (1 - up[0], 1 - up[1]), (1 - up[1], 1 - up[0])):
        assert a <= math.exp(eps) * b + delta + slack
    assert up[1] - up[0] > slack  # yet something is told


# ---- both ----------------------------------------------------------------------------------------------------

ALL = [
    StochasticSign(bound=1.0),
    StochasticSign(bound=1.0, scaled=True),
    StochasticSign(bound="max"),
    StochasticSign(bound="max", scaled=True),
    DPSign(epsilon=0.5, delta=1e-3, sensitivity=1.0),
]


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_bits_blocks_and_rows_left_as_they_are(compressor):
    x_CP = rows(8)
    before, more = x_CP.clone(), 32 * (compressor == ALL[3])
    code = compressor.encode(x_CP, sender(8))
    assert torch.equal(x_CP, before)
    assert bits_of(code) == x_CP.shape[1] + more
    message = pack(code, 2)
    assert len(message) == -(-(x_CP.shape[1] + more) // 8)
    received_CP = compressor.decode(code, sender(8))
    assert torch.equal(compressor.decode(unpack(message, code), sender(1))[0], received_CP[2])
    for size in (1, 3, 8):
        assert torch.equal(in_blocks(compressor, x_CP, size), received_CP)


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_clients_and_rounds_draw_for_themselves(compressor):
    same_CP = rows(1).expand(2, -1)
    first, second = (compressor.apply(same_CP.clone(), sender(2, round=r))[0] for r in (0, 1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StochasticSign(bound=0.0), "StochasticSign.bound must be greater than 0 or 'max', got 0.0"),
        (lambda: StochasticSign(bound="row"), "StochasticSign.bound must be"),
        (lambda: StochasticSign(bound=math.inf), "StochasticSign.bound must be"),
        (lambda: DPSign(epsilon=1.0, delta=0.1, sensitivity=1.0), "DPSign.epsilon must be below 1"),
        (lambda: DPSign(epsilon=0.0, delta=0.1, sensitivity=1.0), "DPSign.epsilon must be greater than 0"),
        (lambda: DPSign(epsilon=0.5, delta=0.0, sensitivity=1.0), "DPSign.delta must be greater than 0"),
        (lambda: DPSign(epsilon=0.5, delta=1.0, sensitivity=1.0), "DPSign.delta must be less than 1"),
        (
            lambda: DPSign(epsilon=0.5, delta=0.1, sensitivity=-1.0),
            "DPSign.sensitivity must be greater than 0",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(rs.ConfigError) as error:
        make()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
