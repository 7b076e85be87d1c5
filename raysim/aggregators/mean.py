"""The plain mean."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raysim.core.interfaces import Aggregator


@dataclass(frozen=True)
class Mean(Aggregator):
    """The mean of all rows: what robust aggregators are compared with. A single lie moves it anywhere.

    Paper: none.
    """

    def combine(self, rows_CP: Tensor, key: Tensor, before_P: Tensor) -> Tensor:
        """The mean."""
        return rows_CP.mean(0)
