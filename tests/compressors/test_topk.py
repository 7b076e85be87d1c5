"""Top-k: which numbers, ties, bits, per layer; the selection behind it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import raysim as rs
from raysim.compressors import selection
from raysim.core.code import bits_of
from tests.compressors.senders import SHAPES, P, rows, sender


def compress(x_CP, fraction, shapes=None, **fields):
    shapes = shapes or [x_CP.shape[1:]]
    compressor = rs.compressors.TopK(fraction=fraction, **fields)
    code = compressor.encode(x_CP, sender(len(x_CP), shapes))
    return compressor.decode(code, sender(len(x_CP), shapes)), bits_of(code)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 40).flatmap(
        lambda n: st.lists(
            st.lists(st.sampled_from([-3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0]), min_size=n, max_size=n),
            min_size=1,
            max_size=4,
        )
    ),
    st.floats(0.001, 1),
)
def test_the_k_largest_and_of_equals_the_first(row, fraction):
    """||C(x) - x||² <= (1 - k/P) ||x||² follows, and holds."""
    x_CP = torch.tensor(row)
    C, n = x_CP.shape
    k = max(1, round(fraction * n))
    q_CP, _ = compress(x_CP, fraction)
    for c in range(C):
        chosen = np.argsort(-np.abs(np.array(row[c])), kind="stable")[:k]
        expected = np.zeros(n, np.float32)
        expected[chosen] = np.array(row[c])[chosen]
        np.testing.assert_array_equal(q_CP[c].numpy(), expected)
    assert ((q_CP - x_CP).square().sum(1) <= (1 - k / n) * x_CP.square().sum(1) + 1e-5).all()


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=1, max_size=6),
            st.integers(1, n),
        )
    )
)
def test_both_ways_to_select_choose_the_same(case):
    """numpy's, on a CPU, and torch's, on anything else; by positions in increasing order."""
    rank, k = case
    rank_CP = torch.tensor(rank)
    expected = [sorted(np.argsort(-np.array(r), kind="stable")[:k].tolist()) for r in rank]
    assert selection.largest(rank_CP, k).tolist() == expected
    assert selection.by_topk(rank_CP, k).tolist() == expected


def test_pieces_do_not_matter(monkeypatch):
    x_CP = rows(9)
    expected, _ = compress(x_CP, 0.3)
    for size in (1, 2 * P, 4 * P + 1):
        monkeypatch.setitem(selection.PIECE, "cpu", size)
        assert torch.equal(compress(x_CP, 0.3)[0], expected)


def test_long_rows():
    """The size of a real model, zeros and equals among them."""
    rng = np.random.Generator(np.random.PCG64(0))
    x = rng.standard_normal((3, 20_000)).astype(np.float32)
    x[1, rng.permutation(20_000)[:19_950]] = 0  # fewer left than are kept
    x[2] = np.round(x[2], 1)
    q_CP, _ = compress(torch.from_numpy(x), 0.01)
    for c in range(3):
        chosen = np.argsort(-np.abs(x[c]), kind="stable")[:200]
        expected = np.zeros(20_000, np.float32)
        expected[chosen] = x[c][chosen]
        np.testing.assert_array_equal(q_CP[c], expected)


def test_numbers_that_are_none_are_sent_first():
    """So that the server sees at once that a client diverged, and no memory keeps them."""
    x_CP = rows(2)
    x_CP[1, 40], x_CP[1, 3] = float("nan"), float("-inf")
    memory_CP = x_CP.clone()
    inner = rs.compressors.TopK(fraction=2 / P)
    q_CP, _ = inner.split(memory_CP, torch.empty(2, P), sender(2))
    assert q_CP[1, 40].isnan()
    assert q_CP[1, 3] == float("-inf")
    assert memory_CP.isfinite().all()


@pytest.mark.parametrize(
    ("n", "fraction", "bits"),
    [
        (1000, 0.01, 10 * (32 + 10)),
        (1024, 0.01, 10 * (32 + 10)),
        (1025, 0.01, 10 * (32 + 11)),
        (1000, 0.0001, 32 + 10),  # one at least
        (1000, 0.9, 32 * 1000),  # in full where that is less
        (1, 1.0, 32),
    ],
)
def test_bits(n, fraction, bits):
    x_CP = rows(3, n)
    q_CP, taken = compress(x_CP, fraction)
    assert taken == bits
    assert rs.compressors.TopK(fraction=fraction).apply(x_CP, sender(3, [torch.Size((n,))]))[1] == bits
    assert (q_CP != 0).sum(1).tolist() == [max(1, round(fraction * n))] * 3


def test_every_layer_has_a_k_of_its_own():
    """Layers of 63, 7, 24, 4 and 1: 6, 1, 2, 1 and 1 numbers, the last two cheaper in full."""
    q_CP, bits = compress(rows(4), 0.1, SHAPES, per_layer=True)
    counts = [(part != 0).sum(1).tolist() for part in q_CP.split([s.numel() for s in SHAPES], 1)]
    assert counts == [[k] * 4 for k in (6, 1, 2, 1, 1)]
    assert bits == 6 * (32 + 6) + (32 + 3) + 2 * (32 + 5) + (32 + 2) + 32
    assert rs.compressors.TopK(fraction=0.1, per_layer=True).error(SHAPES) == pytest.approx(1 - 2 / 24)
    assert rs.compressors.TopK(fraction=0.1).error(SHAPES) == pytest.approx(1 - 10 / P)


def test_the_bound_is_met_by_equal_numbers():
    """No smaller constant would do."""
    x_CP = torch.ones(1, P)
    gone = (compress(x_CP, 0.1)[0] - x_CP).square().sum() / P
    assert gone == pytest.approx(rs.compressors.TopK(fraction=0.1).error(SHAPES))


def test_everything_is_kept_at_one_and_rows_may_be_views():
    wide = rows(4, 32)
    assert torch.equal(compress(wide[:, :20], 1.0)[0], wide[:, :20])
    assert torch.equal(compress(wide[:, :20], 0.3)[0], compress(wide[:, :20].contiguous(), 0.3)[0])


@pytest.mark.parametrize("fraction", [0.0, 1.1, -1.0])
@pytest.mark.parametrize("cls", [rs.compressors.TopK, rs.compressors.RandomK])
def test_refusals(cls, fraction):
    with pytest.raises(rs.ConfigError, match=rf"{cls.__name__}.fraction must be"):
        cls(fraction=fraction)
