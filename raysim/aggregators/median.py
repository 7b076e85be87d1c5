"""The coordinate-wise median."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raysim.aggregators.columns import median
from raysim.core.interfaces import Aggregator


@dataclass(frozen=True)
class Median(Aggregator):
    """Coordinate-wise median: in every coordinate the middle value, or the mean of the two middle values.

    With fewer than half of the rows hostile, every coordinate stays between the least and the largest honest value,
    whatever the others send. Clients with unlike data move it off the mean even where nobody lies. A value that is not
    a number counts as the largest.

    Paper: Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
    2018, https://arxiv.org/abs/1803.01498.
    """

    def combine(self, rows_CP: Tensor, key: Tensor, before_P: Tensor) -> Tensor:
        """The medians."""
        return median(rows_CP)
