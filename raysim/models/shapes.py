"""What a network needs to know of the data, and the refusal of data it cannot read."""

from __future__ import annotations

import math

import numpy as np

from raysim.core.interfaces import Dataset
from raysim.core.plugin import ConfigError


def features(data: Dataset, model: str) -> int:
    """Numbers per example, for networks that flatten their input.

    Raises:
        ConfigError: the inputs are tokens.
    """
    if not np.issubdtype(data.x_train.dtype, np.floating):
        raise ConfigError(
            f"{model} needs inputs of real numbers, got {data.x_train.dtype} {data.x_train.shape}. Use "
            "CharLSTM or CharGRU for tokens, or convert the inputs to float32."
        )
    return math.prod(data.x_train.shape[1:])


def image(data: Dataset, model: str, smallest: int) -> tuple[int, int, int]:
    """Channels, height and width of an example.

    Raises:
        ConfigError: the inputs are no images, or have fewer than ``smallest`` pixels on a side.
    """
    shape = data.x_train.shape[1:]
    if len(shape) != 3:
        raise ConfigError(
            f"{model} needs images of shape (channels, height, width), got examples of shape {shape}. "
            "Reshape the data, for instance x.reshape(-1, 1, 28, 28), or use MLP."
        )
    if min(shape[1:]) < smallest:
        raise ConfigError(
            f"{model} needs images of at least {smallest} x {smallest} pixels, got {shape[1]} x {shape[2]}. "
            "Use MLP, or enlarge the images."
        )
    return shape


def vocabulary(data: Dataset, model: str) -> int:
    """Number of tokens, for networks that read [length] and predict a token at every position.

    Raises:
        ConfigError: the inputs are no token sequences.
    """
    if data.x_train.ndim != 2 or not np.issubdtype(data.x_train.dtype, np.integer):
        raise ConfigError(
            f"{model} needs sequences of tokens, int64 of shape [n, length], got {data.x_train.dtype} "
            f"{data.x_train.shape}. Use a text data set, or MLP for vectors and CNN for images."
        )
    return data.outputs
