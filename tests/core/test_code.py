"""Codes: bits as they are counted are bits as they are written."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from raysim.core.code import Field, bits_of, pack, unpack


def test_most_significant_bits_first_and_no_gaps():
    """101 11 0 1, then one float, then what fills up the last byte."""
    code = {
        "a": Field(torch.tensor([[5], [1]]), 3),
        "b": Field(torch.tensor([[3], [0]], dtype=torch.uint8), 2),
        "c": Field(torch.tensor([[False, True], [True, True]]), 1),
        "d": Field(torch.tensor([[1.0], [-2.0]])),
    }
    assert bits_of(code) == 3 + 2 + 2 + 32
    one = 0x3F800000  # 1.0 as IEEE 754 has it
    expected = (0b1011101 << 32 | one) << 1
    assert pack(code, 0) == expected.to_bytes(5, "big")
    minus_two = 0xC0000000
    assert pack(code, 1) == ((0b0010011 << 32 | minus_two) << 1).to_bytes(5, "big")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.integers(1, 32).flatmap(
            lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=9))
        ),
        max_size=4,
    ),
    st.lists(st.floats(width=32), max_size=5),
)
def test_what_is_packed_is_read_back(fields, floats):
    """Integers of any number of bits, and floats with their bits: infinities, NaN, minus zero."""
    code = {f"f{i}": Field(torch.tensor([v], dtype=torch.int64), bits) for i, (bits, v) in enumerate(fields)}
    code["floats"] = Field(torch.tensor([floats], dtype=torch.float32))
    message = pack(code, 0)
    assert len(message) == -(-bits_of(code) // 8)
    back = unpack(message, code)
    assert list(back) == list(code)
    for name, field in code.items():
        assert back[name].bits == field.bits
        assert back[name].values.dtype == field.values.dtype
        assert back[name].values.numpy().tobytes() == field.values.numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_kinds_of_integers_and_clients(dtype):
    values = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    code = {"x": Field(values, 1)}
    for c in range(2):
        assert torch.equal(unpack(pack(code, c), code)["x"].values[0], values[c])


def test_views_are_packed_as_they_look():
    wide = torch.arange(12.0).view(2, 6)
    code = {"x": Field(wide[:, ::2])}
    assert unpack(pack(code, 1), code)["x"].values.tolist() == [[6.0, 8.0, 10.0]]


def test_nothing_takes_no_bytes():
    assert pack({}, 0) == b""
    assert bits_of({}) == 0
    empty = {"x": Field(torch.empty(3, 0))}
    assert pack(empty, 2) == b""
    assert unpack(b"", empty)["x"].values.shape == (1, 0)


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float32, 16), (torch.float64, 32), (torch.int64, 0), (torch.int64, 33)]
)
def test_what_no_field_can_hold_is_refused(dtype, bits):
    with pytest.raises(ValueError, match=rf"integers or booleans in 1 to 32, got {dtype} in {bits}\."):
        Field(torch.zeros(1, 1, dtype=dtype), bits)


@pytest.mark.parametrize(("value", "bits"), [(4, 2), (-1, 8), (2**32, 32)])
def test_integers_too_large_for_their_bits_are_refused(value, bits):
    code = {"level": Field(torch.tensor([[value]]), bits)}
    with pytest.raises(
        ValueError, match=rf"field 'level' must be in \[0, 2\^{bits}\), got {value} to {value}"
    ):
        pack(code, 0)


def test_lengths_in_bytes_follow_bits():
    for n in range(1, 20):
        code = {"x": Field(torch.from_numpy(np.ones((1, n), np.uint8)), 3)}
        assert len(pack(code, 0)) == -(-3 * n // 8)
