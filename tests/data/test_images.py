"""Bytes to standardised floats, and where the channels go."""

import numpy as np
import pytest

from raysim.core import streams
from raysim.data.images import channels_first, from_bytes


def pixels(*shape):
    return streams.integers(streams.key(0, "pixels"), 256, *shape).numpy().astype(np.uint8)


@pytest.mark.parametrize("shape", [(50, 3, 4, 5), (50, 1, 4, 5), (50, 7)])
def test_equals_the_plain_formula(shape):
    train, test = pixels(*shape), pixels(*shape)[::-1][:20]
    axes = (0, 2, 3) if len(shape) == 4 else None
    scaled = train / 255
    mean, std = scaled.mean(axes, keepdims=True), scaled.std(axes, keepdims=True)
    x_train, x_test = from_bytes(train, test, normalize=True)
    assert x_train.dtype == x_test.dtype == np.float32
    assert x_train.flags.c_contiguous
    np.testing.assert_allclose(x_train, (scaled - mean) / std, atol=1e-6)
    np.testing.assert_allclose(x_test, (test / 255 - mean) / std, atol=1e-6)
    np.testing.assert_allclose(from_bytes(train, test, normalize=False)[0], scaled, atol=1e-7)


def test_a_constant_channel_is_only_centred():
    train = np.full((4, 2, 3, 3), 51, np.uint8)
    train[:, 1] = pixels(4, 3, 3)
    x, _ = from_bytes(train, train, normalize=True)
    assert not x[:, 0].any()
    assert abs(x[:, 1].std() - 1) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "before", "after"),
    [
        (np.uint8, (2, 28, 28), (2, 1, 28, 28)),
        (np.float32, (2, 28, 28), (2, 1, 28, 28)),
        (np.uint8, (2, 32, 30, 3), (2, 3, 32, 30)),
        (np.uint8, (2, 32, 30, 1), (2, 1, 32, 30)),
        (np.uint8, (2, 3, 32, 30), (2, 3, 32, 30)),
        (np.uint8, (2, 3, 3, 3), (2, 3, 3, 3)),
        (np.float32, (2, 32, 30, 3), (2, 32, 30, 3)),
        (np.float32, (2, 5), (2, 5)),
    ],
)
def test_channels_first(dtype, before, after):
    assert channels_first(np.zeros(before, dtype)).shape == after
