"""What every compressor must keep: its bytes say what it says, blocks do not matter, promises hold."""

from statistics import NormalDist

import pytest
import torch

import raysim as rs
from raysim.core.code import bits_of, pack, unpack
from tests.compressors.examples import ALL, EXAMPLES, RANDOM, innermost
from tests.compressors.senders import SHAPES, P, in_blocks, rows, sender

DRAWS = 4000
every = pytest.mark.parametrize("compressor", ALL, ids=repr)
promised = pytest.mark.parametrize("compressor", [x for x in ALL if x.error(SHAPES) is not None], ids=repr)


def test_every_class_has_examples():
    assert set(EXAMPLES) == {getattr(rs.compressors, n) for n in rs.compressors.__all__} - {
        rs.compressors.Compressor
    }
    assert all(isinstance(e, cls) for cls, examples in EXAMPLES.items() for e in examples)


@every
def test_encoding_leaves_the_rows_alone(compressor):
    x_CP = rows(4)
    before = x_CP.clone()
    compressor.encode(x_CP, sender(4))
    assert torch.equal(x_CP, before)


@every
def test_the_bytes_say_what_the_code_says(compressor):
    """As many as the bits are, and read back they give the same rows to the bit."""
    code = compressor.encode(rows(4), sender(4))
    expected_CP = compressor.decode(code, sender(4))
    for client in range(4):
        message = pack(code, client)
        assert len(message) == -(-bits_of(code) // 8)
        read_1P = compressor.decode(unpack(message, code), sender(1, first=client))
        assert read_1P.dtype == torch.float32
        assert torch.equal(read_1P[0], expected_CP[client])


@every
def test_apply_is_decode_of_encode(compressor):
    """Rows, bits and what is remembered, over three messages."""
    short, long = {}, {}
    for round in range(3):
        x_CP = rows(4, seed=round)
        applied_CP, bits = compressor.apply(x_CP.clone(), sender(4, kept=short, round=round))
        code = compressor.encode(x_CP, sender(4, kept=long, round=round))
        decoded_CP = compressor.decode(code, sender(4, kept=long, round=round))
        assert applied_CP.shape == decoded_CP.shape == (4, P)
        assert torch.equal(applied_CP, decoded_CP)
        assert bits == bits_of(code)
    assert short.keys() == long.keys()
    for name, row in short.items():
        torch.testing.assert_close(row, long[name], rtol=0, atol=0)


@every
def test_split_is_apply_and_the_rest(compressor):
    """In its own memory too: rows as they are kept, side by side with a gap between them."""
    x_CP = rows(4)
    wide, spare_CP = torch.zeros(4, 128), torch.full((4, P), 7.0)
    wide[:, :P] = x_CP
    sent_CP, bits = compressor.split(wide[:, :P], spare_CP, sender(4))
    expected_CP, expected = compressor.apply(x_CP.clone(), sender(4))
    assert torch.equal(sent_CP, expected_CP)
    assert bits == expected
    assert torch.equal(wide[:, :P], x_CP - expected_CP)
    assert (wide[:, P:] == 0).all()


@every
@pytest.mark.parametrize("size", [1, 2, 5])
def test_blocks_do_not_matter(compressor, size):
    x_CP = rows(11)
    assert torch.equal(in_blocks(compressor, x_CP, size, rounds=3), in_blocks(compressor, x_CP, 11, rounds=3))


@every
def test_bits_are_no_more_than_the_row_takes(compressor):
    """But for a float a layer."""
    bits = compressor.apply(rows(2), sender(2))[1]
    assert 0 < bits <= 32 * (P + len(SHAPES))


@every
def test_zero_stays_zero(compressor):
    """In three rounds; of votes, which know no zero, only that they are finite. Among rows that are not zero."""
    kept = {}
    for round in range(3):
        x_CP = rows(3)
        x_CP[1] = 0
        sent_CP, _ = compressor.apply(x_CP, sender(3, kept=kept, round=round))
        assert sent_CP.isfinite().all()
        if innermost(compressor).error(SHAPES) is not None:
            assert (sent_CP[1] == 0).all()
            assert (sent_CP[0] != 0).any()


@every
@pytest.mark.parametrize("value", [0.0, -3.0, 1e-3])
def test_a_row_of_one_number(compressor, value):
    """Where an error bound is zero there, it arrives as it is."""
    shapes = [torch.Size(())]
    x_CP = torch.full((3, 1), value)
    code = compressor.encode(x_CP, sender(3, shapes))
    sent_CP = compressor.decode(code, sender(3, shapes))
    assert sent_CP.shape == (3, 1)
    assert sent_CP.isfinite().all()
    assert len(pack(code, 0)) == -(-bits_of(code) // 8)
    if compressor.error(shapes) == 0:
        assert torch.equal(sent_CP, x_CP)


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e-45])
def test_what_one_client_sends_changes_nothing_for_others(compressor, bad):
    x_CP = rows(3)
    spoilt_CP = x_CP.clone()
    spoilt_CP[1] = bad
    expected_CP = compressor.apply(x_CP, sender(3))[0]
    sent_CP = compressor.apply(spoilt_CP, sender(3))[0]
    assert torch.equal(sent_CP[[0, 2]], expected_CP[[0, 2]])


@every
def test_draws_belong_to_client_and_round(compressor):
    """Where nothing is random, or nothing is left out, all are the same."""
    x_CP = rows(1).expand(6, -1)
    draw = lambda **where: compressor.apply(x_CP.clone(), sender(6, **where))[0]
    sent_CP = draw()
    assert torch.equal(sent_CP, draw())
    others = [draw(round=1), draw(first=6), sent_CP.roll(1, 0)]
    inner = innermost(compressor)
    chance = isinstance(inner, RANDOM) and inner.error(SHAPES) != 0
    for other_CP in others:
        assert ((sent_CP != other_CP).any(1) == chance).all()


# ---- promises, by Monte Carlo ----------------------------------------------------------------------------------


def hard_rows():
    """Normal numbers; one that stands out, alone and above others alike; all alike; 4/3 of powers of two."""
    spike, alike = torch.full((P,), 0.05), torch.ones(P)
    spike[3] = 2.0
    return torch.stack([rows(1)[0], torch.eye(P)[5], spike, alike, torch.full((P,), 4 / 3 * 2.0**-3)])


def drawn(compressor, x_P, draws=DRAWS):
    """What so many clients make of the same row, [draws, P] float64."""
    return compressor.apply(x_P.repeat(draws, 1), sender(draws))[0].double()


@promised
@pytest.mark.parametrize("which", range(5))
def test_the_error_is_within_its_bound(compressor, which):
    """E||C(x) - x||² <= c ||x||²: a mean 4.5 standard errors above c is not by chance (1 in 290 thousand)."""
    x_P = hard_rows()[which]
    ratio = (drawn(compressor, x_P) - x_P).square().sum(1) / x_P.double().square().sum()
    excess = ratio.mean() - 4.5 * ratio.std() / DRAWS**0.5
    assert excess <= compressor.error(SHAPES) * (1 + 1e-5) + 1e-10


def unbiased(compressor, x_P):
    """Whether no coordinate's mean is off: z-tests, all together with confidence 1 - 1e-4 (Bonferroni)."""
    sent_DP = drawn(compressor, x_P)
    off_P = (sent_DP.mean(0) - x_P).abs()
    limit = NormalDist().inv_cdf(1 - 1e-4 / (2 * P))
    return bool((off_P <= limit * sent_DP.std(0) / DRAWS**0.5 + 1e-6 * x_P.abs().max()).all())


@pytest.mark.parametrize("compressor", [x for x in ALL if x.unbiased], ids=repr)
@pytest.mark.parametrize("which", [0, 2, 4])
def test_unbiased_where_declared(compressor, which):
    assert unbiased(compressor, hard_rows()[which])


@pytest.mark.parametrize("compressor", [x for x in ALL if not x.unbiased], ids=repr)
def test_the_test_of_bias_finds_it(compressor):
    """In the first message of all that declare nothing, unless they leave nothing out."""
    exact = innermost(compressor).unbiased or compressor.error(SHAPES) == 0
    assert unbiased(compressor, hard_rows()[0]) == exact


def test_examples_cover_every_promise():
    """Both unbiased and biased, wrapped and plain: the lists that tests above run over are not empty."""
    assert {type(x) for x in ALL if x.unbiased} >= {
        rs.compressors.QSGD,
        rs.compressors.Natural,
        rs.compressors.Ternary,
        rs.compressors.RandomK,
    }
    assert {type(x) for x in ALL if x.error(SHAPES) is None} >= {rs.compressors.Feedback}
