"""Rows that count for more than one client's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raysim.core.plugin import Positive
from raysim.core.sending import Hostile
from raysim.core.transforms import Attack


@dataclass(frozen=True)
class Scale(Attack):
    """Hostile clients send factor x_i in place of x_i, to count for more than one client in a mean.

    With factor 1/w_i, w_i a client's weight in the mean, and other clients near their optimum, the mean moves the
    shared model onto the hostile client's own: model replacement. What that one learnt is another attack's business:
    (LabelFlip(hostile), Scale(hostile, factor)) with the same fraction or numbers is one set of clients.

    Paper: Bagdasaryan, Veit, Hua, Estrin, Shmatikov, How To Backdoor Federated Learning, 2020,
    https://arxiv.org/abs/1807.00459.

    Args:
        hostile: which clients: a fraction of all, drawn once for the experiment, or their numbers.
        factor: how many times the row, above 0.
    """

    hostile: Hostile
    factor: Positive

    def lie(self, rows_HP: Tensor, key_H: Tensor, known: Mapping[str, Tensor]) -> Tensor:
        """The row, enlarged."""
        return rows_HP * self.factor
