"""Top-k sparsification."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from raysim.core.interfaces import Compressor


@dataclass(frozen=True)
class TopK(Compressor):
    """Top-k: the k numbers of a row that are largest in magnitude, all others zero; k = max(1, round(fraction P)).

    Of numbers of the same magnitude those with the lower positions are kept. It is a contraction:
    ||C(x) - x||² ≤ (1 - k/P) ||x||².

    A row takes k (32 + ⌈log₂ P⌉) bits, each number with its position, or 32 P, the row in full, where that is less.

    Paper: Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, 2018, https://arxiv.org/abs/1809.07599.

    Args:
        fraction: share of the numbers that is sent, in (0, 1].
    """

    fraction: Annotated[float, Field(gt=0, le=1)]

    def compress(self, rows_CP: Tensor, key_C: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's largest numbers in their places, [C, P], and its bits [C]; no randomness."""
        C, P = rows_CP.shape
        k = max(1, round(self.fraction * P))
        size_CP = rows_CP.abs()
        least_C1 = size_CP.topk(k, 1, sorted=False).values.amin(1, keepdim=True)
        keep_CP = size_CP >= least_C1
        if (keep_CP.sum(1) > k).any():  # topk alone leaves open which of equals it takes
            tied_CP = size_CP == least_C1
            room_C1 = k - (size_CP > least_C1).sum(1, keepdim=True)
            keep_CP &= ~tied_CP | (tied_CP.cumsum(1) <= room_C1)
        bits = min(k * (32 + math.ceil(math.log2(P))), 32 * P)
        bits_C = torch.full((C,), bits, dtype=torch.float64, device=rows_CP.device)
        return torch.where(keep_CP, rows_CP, 0.0), bits_C
