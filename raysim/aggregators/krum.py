"""Krum and multi-Krum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.aggregators.columns import Part, count, finite, median, pieces
from raysim.core.interfaces import Aggregator
from raysim.core.plugin import ConfigError, Count


@dataclass(frozen=True)
class Krum(Aggregator):
    """Krum: the row that is closest to its neighbours; multi-Krum, ``best`` above 1: the mean of the closest such rows.

    score_i = sum of the n - f - 2 smallest ||x_i - x_j||² over j ≠ i;  the rows with the lowest scores are averaged,
    of equal scores (to rounding, in float64) the earlier row first.

    With at most f rows hostile, a chosen row is no further from some honest row than √((n - f - 2) / (n - 2 f - 1))
    times the largest distance between honest rows. Krum's single row is as noisy as one client's, and where clients'
    data are unlike it follows one of them. Rows that are not finite, or longer than 1e19, are as if infinitely far
    away.

    Paper: Blanchard, El Mhamdi, Guerraoui, Stainer, Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent, 2017, https://arxiv.org/abs/1703.02757.

    Args:
        byzantine: f, at least the number of hostile rows: a number of rows, or a share of them below 0.5, rounded up.
            There must be at least 2 f + 3 rows.
        best: m, rows to average, at most n - f.
    """

    byzantine: Part
    best: Count = 1

    def fit(self, rows: int) -> None:
        """Enough rows for a majority of the neighbours to be honest."""
        f = count(self.byzantine, rows)
        if rows < 2 * f + 3:
            raise ConfigError(
                f"Krum.byzantine={self.byzantine} is {f} of {rows} rows, which takes at least 2 f + 3 = {2 * f + 3} of "
                f"them. Use fewer hostile rows or more clients per round."
            )
        if self.best > rows - f:
            raise ConfigError(
                f"Krum.best is {self.best}, but with {f} of {rows} rows hostile only {rows - f} are honest. Use at "
                "most as many."
            )

    def combine(self, rows_CP: Tensor, key: Tensor, before_P: Tensor) -> Tensor:
        """The chosen row, or the mean of the chosen ones."""
        near_CP = finite(rows_CP)
        others = min(len(rows_CP) - count(self.byzantine, len(rows_CP)) - 2, len(near_CP) - 1)
        score_C = squares(near_CP).sort(dim=1).values[:, :others].sum(1)
        chosen = score_C.argsort(stable=True)[: self.best].sort().values
        return near_CP[chosen].mean(0)


def squares(rows_CP: Tensor) -> Tensor:
    """||x_i - x_j||² for all pairs, float64 [C, C], infinite for i = j.

    From inner products, which are matrix products and so fast, around the coordinate-wise median: it lies near most
    rows, so that what they have in common, or a few that are huge, cancels no digits of the distances among them.
    """
    centre_P, C = median(rows_CP), len(rows_CP)
    inner_CC = torch.zeros(C, C, dtype=torch.float64, device=rows_CP.device)
    for piece in pieces(rows_CP):
        part = rows_CP[:, piece].double().sub_(centre_P[piece])
        inner_CC.addmm_(part, part.t())
    square_C = inner_CC.diagonal().clone()
    out_CC = inner_CC.mul_(-2).add_(square_C).add_(square_C.unsqueeze(1)).clamp_(min=0)
    return out_CC.fill_diagonal_(math.inf)
