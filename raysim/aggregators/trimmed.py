"""The coordinate-wise trimmed mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.aggregators.columns import Part, count, sorted_columns
from raysim.core.interfaces import Aggregator
from raysim.core.plugin import ConfigError


@dataclass(frozen=True)
class TrimmedMean(Aggregator):
    """Trimmed mean: in every coordinate the mean of what is left without the b largest and the b smallest values.

    With at most b rows hostile, every coordinate stays between the least and the largest honest value. A value that is
    not a number counts as the largest.

    Paper: Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
    2018, https://arxiv.org/abs/1803.01498.

    Args:
        trim: b, at least the number of hostile rows: a number of rows, or a share of them below 0.5, rounded up.
            2 b must be less than the number of rows.
    """

    trim: Part

    def fit(self, rows: int) -> None:
        """Something must be left."""
        b = count(self.trim, rows)
        if 2 * b >= rows:
            raise ConfigError(
                f"TrimmedMean.trim={self.trim} drops {b} values at either end, which leaves nothing of {rows}. Use at "
                f"most {(rows - 1) // 2}, or more clients per round."
            )

    def combine(self, rows_CP: Tensor, key: Tensor, before_P: Tensor) -> Tensor:
        """The means of the middle values."""
        b, out_P = count(self.trim, len(rows_CP)), torch.empty_like(rows_CP[0])
        for piece, values in sorted_columns(rows_CP):
            out_P[piece] = torch.from_numpy(values[:, b : len(rows_CP) - b].mean(axis=1))
        return out_P
