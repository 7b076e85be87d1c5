"""The scaled sign: naive, contraction, bits, zeros, blocks, and what error feedback makes of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import raysim as rs
from raysim.core.code import bits_of, pack, unpack
from tests.compressors.senders import SHAPES, P, in_blocks, rows, sender

SCALES = ["layer", "row", "none"]


def naive(x, scale):
    """(||x||_1 / d) sign(x) per layer or row, number by number; sign(0) is +1."""
    lengths = [s.numel() for s in SHAPES] if scale == "layer" else [len(x)]
    out, at = np.empty(len(x)), 0
    for d in lengths:
        size = 1.0 if scale == "none" else sum(abs(float(v)) for v in x[at : at + d]) / d
        for j in range(at, at + d):
            out[j] = size if x[j] >= 0 else -size
        at += d
    return out


def compress(x_CP, scale):
    return rs.compressors.Sign(scale=scale).apply(x_CP.clone(), sender(len(x_CP)))


@pytest.mark.parametrize("scale", SCALES)
def test_equals_naive(scale):
    x_CP = rows(5)
    x_CP[1, ::3] = 0
    x_CP[2, ::2] = -0.0
    q_CP, _ = compress(x_CP, scale)
    for c in range(5):
        np.testing.assert_allclose(q_CP[c], naive(x_CP[c].numpy(), scale), rtol=1e-5)


@pytest.mark.parametrize(("scale", "scales"), [("layer", len(SHAPES)), ("row", 1), ("none", 0)])
def test_bits_are_those_of_the_bytes(scale, scales):
    """One a number, 32 a scale; the message read back says the same."""
    compressor, x_CP = rs.compressors.Sign(scale=scale), rows(3)
    code = compressor.encode(x_CP, sender(3))
    assert bits_of(code) == P + 32 * scales == compress(x_CP, scale)[1]
    message = pack(code, 1)
    assert len(message) == -(-(P + 32 * scales) // 8)
    assert torch.equal(
        compressor.decode(unpack(message, code), sender(1))[0], compressor.decode(code, sender(3))[1]
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-40, 40), min_size=P, max_size=P), st.sampled_from(["layer", "row"]))
def test_contraction(row, scale):
    """||C(x) - x||² = ||x||² - Σ_l ||x_l||_1² / d_l <= error(shapes) ||x||²."""
    x_1P = torch.tensor([row], dtype=torch.float32)
    gone = (compress(x_1P, scale)[0] - x_1P).double().square().sum().item()
    parts = x_1P.double().split([s.numel() for s in SHAPES], 1) if scale == "layer" else [x_1P.double()]
    length = x_1P.double().square().sum().item()
    expected = length - sum(p.abs().sum().item() ** 2 / p.shape[1] for p in parts)
    assert gone == pytest.approx(expected, rel=1e-4, abs=1e-5 * length)
    assert gone <= (rs.compressors.Sign(scale=scale).error(SHAPES) + 1e-5) * length


def test_the_bound_is_met_where_one_number_stands_out():
    """1 - 1/d with d the longest layer, or the row: no smaller constant would do. Unscaled there is none."""
    one_1P = torch.zeros(1, P)
    one_1P[0, 5] = 3.0
    for scale, d in (("layer", 63), ("row", P)):
        assert (compress(one_1P, scale)[0] - one_1P).square().sum() == pytest.approx(
            9 * (1 - 1 / d), rel=1e-5
        )
        assert rs.compressors.Sign(scale=scale).error(SHAPES) == pytest.approx(1 - 1 / d)
    assert rs.compressors.Sign(scale="none").error(SHAPES) is None
    assert not any(rs.compressors.Sign(scale=s).unbiased for s in SCALES)


def test_zeros():
    """All zero stays so with a scale; without, a bit knows no zero, and -0 is one."""
    zero_2P = torch.zeros(2, P)
    zero_2P[1] = -0.0
    assert (compress(zero_2P, "layer")[0] == 0).all()
    assert (compress(zero_2P, "row")[0] == 0).all()
    assert (compress(zero_2P, "none")[0] == 1).all()
    some_1P = rows(1)
    some_1P[:, :63] = 0
    q_1P, _ = compress(some_1P, "layer")
    assert (q_1P[:, :63] == 0).all()
    assert (q_1P[:, 63:] != 0).all()


@pytest.mark.parametrize("scale", SCALES)
def test_rows_are_left_and_blocks_do_not_show(scale):
    x_CP, compressor = rows(8), rs.compressors.Sign(scale=scale)
    before = x_CP.clone()
    code = compressor.encode(x_CP, sender(8))
    assert torch.equal(x_CP, before)
    for size in (1, 3, 8):
        assert torch.equal(in_blocks(compressor, x_CP, size), compressor.decode(code, sender(8)))


def test_error_feedback_equals_naive_over_rounds():
    """p = x + e; delta = (||p_l||_1 / d_l) sign(p_l) per tensor; e <- p - delta."""
    compressor, kept = rs.compressors.Feedback(rs.compressors.Sign()), {}
    memory = np.zeros((3, P))
    for round in range(12):
        x_CP = rows(3, seed=round)
        sent_CP, _ = compressor.apply(x_CP.clone(), sender(3, kept=kept, round=round))
        for c in range(3):
            wanted = memory[c] + x_CP[c].numpy()
            delta = naive(wanted, "layer")
            near = np.abs(wanted) < 1e-5  # where the sign is up to rounding
            np.testing.assert_allclose(sent_CP[c].numpy()[~near], delta[~near], rtol=1e-4, atol=1e-5)
            memory[c] = wanted - delta


def test_feedback_reaches_the_optimum_of_a_heterogeneous_problem_where_the_bare_compressor_does_not():
    data = rs.data.Quadratic(clients=5, dimension=8, examples=8, condition=4.0)
    fields = {
        "data": data,
        "partition": rs.partitions.ByGroup(),
        "model": rs.models.Linear(bias=False),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.05), steps=1),
        "rounds": 600,
        "evaluate_every": 600,
    }
    sign = rs.compressors.Sign()
    uplinks = [(), (rs.compressors.Feedback(sign),), (sign,)]
    exact, feedback, bare = (
        (rs.Simulation(**fields, uplink=u).run(None).x_P - torch.from_numpy(data.load().optimum)).norm()
        for u in uplinks
    )
    assert exact < 1e-3
    assert feedback < 0.1
    assert bare > 3 * feedback


def test_refusals():
    with pytest.raises(rs.ConfigError, match=r"Sign.scale must be 'layer', 'row' or 'none', got 'tensor'"):
        rs.compressors.Sign(scale="tensor")
