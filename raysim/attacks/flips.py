"""Attacks that turn things round: the rows that are sent, or the labels that are learnt from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from raysim.core.cohorts import Shards
from raysim.core.interfaces import Dataset
from raysim.core.plugin import ConfigError, CountOrZero, Positive
from raysim.core.sending import Hostile, Sender, hostile_ids
from raysim.core.transforms import Attack


@dataclass(frozen=True)
class SignFlip(Attack):
    """Hostile clients train honestly and send the opposite: -scale x_i in place of x_i.

    With scale 1 it is the attack that others call bit flip.

    Paper: Li, Xu, Chen, Giannakis, Ling, RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning
    from Heterogeneous Datasets, 2019, https://arxiv.org/abs/1811.03761.

    Args:
        hostile: which clients: a fraction of all, drawn once for the experiment, or their numbers.
        scale: how many times the row, above 0.
    """

    hostile: Hostile
    scale: Positive = 1.0

    def lie(self, rows_HP: Tensor, key_H: Tensor, known: Mapping[str, Tensor]) -> Tensor:
        """The opposite."""
        return rows_HP * -self.scale


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Hostile clients learn wrong labels and send honestly what they learnt: y becomes m(y) in their training data.

    With L classes: "reverse" is m(y) = L - 1 - y, "next" is m(y) = (y + 1) mod L, and a list is m itself, class by
    class (m(1) = 7 and all others as they are: only ones are learnt as sevens). In a text every next token is such a
    label. Test data and honest clients' data stay as they are; the arrays that were loaded are not written to.

    Paper: Fang, Cao, Jia, Gong, Local Model Poisoning Attacks to Byzantine-Robust Federated Learning, 2020,
    https://arxiv.org/abs/1911.11815 (reverse); Tolpegin, Truex, Gursoy, Liu, Data Poisoning Attacks Against Federated
    Learning Systems, 2020, https://arxiv.org/abs/2007.08432 (one class learnt as another).

    Args:
        hostile: which clients: a fraction of all, drawn once for the experiment, or their numbers.
        mapping: m: "reverse", "next", or a list that names a class for every class.
    """

    on_data: ClassVar[bool] = True

    hostile: Hostile
    mapping: Literal["reverse", "next"] | tuple[CountOrZero, ...] = "reverse"

    def poison(self, dataset: Dataset, shards: Shards, seed: int) -> Dataset:
        """The data with the labels of hostile clients' training examples mapped, in an array of its own."""
        y = dataset.y_train
        if not np.issubdtype(y.dtype, np.integer):
            raise ConfigError(
                f"LabelFlip maps classes to classes, but this data set's targets are real numbers ({y.dtype}). Use "
                "data with class labels, or an attack on what is sent, such as SignFlip."
            )
        wrong = self._map(dataset.outputs).astype(y.dtype)
        hostile_N = np.zeros(shards.number, bool)
        hostile_N[hostile_ids(self.hostile, shards.number, seed)] = True
        at = np.flatnonzero(np.repeat(hostile_N, shards.sizes_N))
        y = y.copy()
        y[at] = wrong[y[at]]
        return dataclasses.replace(dataset, y_train=y)

    def _map(self, classes: int) -> np.ndarray:
        """m, by class."""
        if self.mapping == "reverse":
            return np.arange(classes)[::-1]
        if self.mapping == "next":
            return (np.arange(classes) + 1) % classes
        if len(self.mapping) != classes or max(self.mapping) >= classes:
            raise ConfigError(
                f"LabelFlip.mapping must name one of the classes 0 to {classes - 1} for each of these {classes}, got "
                f"{list(self.mapping)}. Write {classes} numbers below {classes}, or 'reverse' or 'next'."
            )
        return np.array(self.mapping)

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor | float | None]:
        """The rows as they are."""
        return rows_CP, None
