"""What the partitions share: checks of the data, an order at random, and index vectors from owners."""

from __future__ import annotations

import numpy as np

from raysim.core import streams
from raysim.core.interfaces import Dataset
from raysim.core.plugin import ConfigError


def index_vectors(owner: np.ndarray, clients: int) -> list[np.ndarray]:
    """The examples of each client, in increasing order, from every example's client ([n], -1 for none)."""
    order = np.argsort(owner, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(owner + 1, minlength=clients + 1))
    return np.split(order, ends[:-1])[1:]


def shuffled(number: int, seed: int, purpose: str) -> np.ndarray:
    """0 .. number-1 in an order that depends on seed and purpose only."""
    return streams.permutation(streams.key(seed, "partition", purpose), number).numpy()


def by_label(label: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """All examples sorted by label, at random within a label."""
    order = shuffled(len(label), seed, purpose)
    return order[np.argsort(label[order], kind="stable")]


def class_labels(data: Dataset, partition: str) -> np.ndarray:
    """One label for each training example, or ConfigError."""
    y = data.y_train
    if y.ndim == 1 and y.dtype.kind in "iu":
        return y
    kind = "sequences of tokens" if y.dtype.kind in "iu" else "numbers to predict"
    raise ConfigError(
        f"{partition} goes by class labels, but this data set's targets are {kind} ({y.dtype} "
        f"{list(y.shape)}). Use IID or Sizes, ByGroup if the data have natural owners, or Explicit with your "
        "own index vectors."
    )


def require_examples(data: Dataset, needed: int, partition: str, why: str) -> None:
    """ConfigError unless there are at least ``needed`` training examples."""
    if len(data.y_train) < needed:
        raise ConfigError(
            f"{partition} needs at least {needed} training examples ({why}), but the data set has "
            f"{len(data.y_train)}. Use fewer clients or more data."
        )
