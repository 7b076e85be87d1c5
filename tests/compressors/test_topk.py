"""Top-k: contraction, which numbers, ties, bits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import raysim as rs

KEY = torch.zeros(1, dtype=torch.int64)


def compress(rows, fraction):
    rows_CP = torch.as_tensor(rows, dtype=torch.float32)
    return rs.compressors.TopK(fraction=fraction).compress(rows_CP, KEY.expand(len(rows_CP)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40).flatmap(
        lambda P: st.lists(
            st.lists(st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), min_size=P, max_size=P),
            min_size=1,
            max_size=4,
        )
    ),
    st.floats(0.001, 1),
)
def test_law(rows, fraction):
    """||C(x) - x||² ≤ (1 - k/P) ||x||²; the k largest, of equals the first; each row by itself; the input unwritten."""
    x_CP = torch.tensor(rows)
    before, (C, P) = x_CP.clone(), x_CP.shape
    k = max(1, round(fraction * P))
    q_CP, bits_C = compress(x_CP, fraction)
    assert torch.equal(x_CP, before)
    assert ((q_CP - x_CP).square().sum(1) <= (1 - k / P) * x_CP.square().sum(1) + 1e-5).all()
    for c in range(C):
        chosen = np.argsort(-np.abs(np.array(rows[c])), kind="stable")[:k]
        expected = np.zeros(P, np.float32)
        expected[chosen] = np.array(rows[c])[chosen]
        np.testing.assert_array_equal(q_CP[c].numpy(), expected)
        assert torch.equal(compress(x_CP[c : c + 1], fraction)[0][0], q_CP[c])
    assert bits_C.dtype == torch.float64
    assert (bits_C <= 32 * P).all()
    assert (bits_C > 0).all()


@pytest.mark.parametrize(
    ("P", "fraction", "bits"),
    [
        (1000, 0.01, 10 * (32 + 10)),
        (1024, 0.01, 10 * (32 + 10)),
        (1025, 0.01, 10 * (32 + 11)),
        (1000, 0.0001, 32 + 10),  # one at least
        (1000, 0.9, 32 * 1000),  # in full where that is less
        (1, 1.0, 32),
    ],
)
def test_bits(P, fraction, bits):
    q_CP, bits_C = compress(torch.randn(3, P, generator=torch.Generator().manual_seed(0)), fraction)
    assert bits_C.tolist() == [bits] * 3
    assert (q_CP != 0).sum(1).tolist() == [max(1, round(fraction * P))] * 3


def test_everything_is_kept_at_one_and_rows_may_be_views():
    wide = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(compress(wide[:, :20], 1.0)[0], wide[:, :20])
    assert torch.equal(compress(wide[:, :20], 0.3)[0], compress(wide[:, :20].contiguous(), 0.3)[0])


@pytest.mark.parametrize("fraction", [0.0, 1.1, -1.0])
def test_refusals(fraction):
    with pytest.raises(rs.ConfigError, match=r"TopK.fraction must be"):
        rs.compressors.TopK(fraction=fraction)
