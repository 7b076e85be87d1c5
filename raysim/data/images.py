"""Pixels: bytes to standardised float32, channels first."""

from __future__ import annotations

import numpy as np

_CHANNELS = (1, 3, 4)  # grey, colour, colour with transparency


def channels_first(x: np.ndarray) -> np.ndarray:
    """Images as [n, channels, height, width].

    [n, height, width] gets its one channel. Bytes [n, height, width, channels], the way image files are read,
    are turned round if the last axis can be channels (1, 3 or 4 of them) and the second cannot. All else
    stays.
    """
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.dtype == np.uint8 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        return np.moveaxis(x, 3, 1)
    return x


def from_bytes(x_train: np.ndarray, x_test: np.ndarray, *, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """Bytes as float32: value / 255, then (value - mean) / std of the training set if ``normalize``.

    Mean and standard deviation are those of each channel of images [n, channels, height, width], and of all
    values together for any other shape. They are computed exactly, from how often each of the 256 values
    occurs; a channel that is constant is only centred.
    """
    groups = x_train.shape[1] if x_train.ndim == 4 else 1
    value = np.arange(256) / 255
    out_train, out_test = (np.empty(x.shape, np.float32) for x in (x_train, x_test))
    for g in range(groups):
        part = (slice(None), g) if groups > 1 else slice(None)
        table = value
        if normalize:
            share = np.bincount(x_train[part].ravel(), minlength=256) / x_train[part].size
            mean = share @ value
            std = np.sqrt(share @ (value - mean) ** 2)
            table = (value - mean) / (std if std > 0 else 1.0)
        out_train[part] = table.astype(np.float32)[x_train[part]]
        out_test[part] = table.astype(np.float32)[x_test[part]]
    return out_train, out_test
