"""The geometric median."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.aggregators.columns import distances, finite
from raysim.core.interfaces import Aggregator
from raysim.core.plugin import Count, Positive


@dataclass(frozen=True)
class GeometricMedian(Aggregator):
    """Geometric median (RFA): the point whose distances to all rows add up to the least, by smoothed Weiszfeld steps.

    z ← Σ_i w_i x_i / Σ_i w_i,  w_i = 1 / max(ν, ||z - x_i||), a fixed number of times from z = 0: for updates, from the
    model as it is, where the first step takes each row by its direction only. The minimiser moves with the rows; z
    after a few steps depends on where 0 is.

    With a share a < 1/2 of the rows hostile, the minimiser is no further from any point than 2 (1 - a) / (1 - 2 a)
    times the honest row that is furthest from it. Rows that are not finite, or longer than 1e19, are left out.

    Paper: Pillutla, Kakade, Harchaoui, Robust Aggregation for Federated Learning, 2019,
    https://arxiv.org/abs/1912.13445.

    Args:
        iterations: steps, at least 1.
        smoothing: ν, the distance below which a row weighs no more, above 0, in the rows' unit.
    """

    iterations: Count = 8
    smoothing: Positive = 1e-6

    def combine(self, rows_CP: Tensor, key: Tensor, before_P: Tensor) -> Tensor:
        """The point after all steps."""
        rows_CP = finite(rows_CP)
        z_P = torch.zeros_like(rows_CP[0])
        for _ in range(self.iterations):
            weight_C = distances(rows_CP, z_P).clamp_(min=self.smoothing).reciprocal_()
            z_P = torch.mv(rows_CP.t(), (weight_C / weight_C.sum()).to(rows_CP.dtype))
        return z_P
