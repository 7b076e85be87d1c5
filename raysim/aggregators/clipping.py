"""Centered clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raysim.aggregators.columns import distances, finite
from raysim.core.interfaces import Aggregator
from raysim.core.plugin import Count, Positive


@dataclass(frozen=True)
class CenteredClipping(Aggregator):
    """Centered clipping: rows clipped around what came out in the round before, then averaged.

    v ← v + mean_i (x_i - v) min(1, τ / ||x_i - v||), a fixed number of times in a round; v goes on from round to round,
    from 0 at first.

    However far away, a row moves v by τ/n at most in a step; f hostile rows of n hold it no further than τ f / (n - f)
    from the mean of honest rows that are closer than τ to it. So honest rows must change slowly from round to round:
    the paper has clients send momentum (``SGD(momentum=...)`` with ``Local.keep_state``). Rows that are not finite, or
    longer than 1e19, are left out.

    Paper: Karimireddy, He, Jaggi, Learning from History for Byzantine Robust Optimization, 2021,
    https://arxiv.org/abs/2012.10333.

    Args:
        radius: τ, how far a row may pull, in the rows' unit, above 0.
        iterations: steps in a round, at least 1.
    """

    keeps: ClassVar[bool] = True

    radius: Positive
    iterations: Count = 3

    def combine(self, rows_CP: Tensor, key: Tensor, before_P: Tensor) -> Tensor:
        """The centre after this round."""
        rows_CP, v_P = finite(rows_CP), before_P
        tiny = torch.finfo(torch.float64).tiny
        for _ in range(self.iterations):
            length_C = distances(rows_CP, v_P).clamp_(min=tiny)
            share_C = (self.radius / length_C).clamp_(max=1) / len(rows_CP)
            v_P = (1 - float(share_C.sum())) * v_P + torch.mv(rows_CP.t(), share_C.to(rows_CP.dtype))
        return v_P
