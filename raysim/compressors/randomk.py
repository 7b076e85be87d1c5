"""Random sparsification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field as Limits
from torch import Tensor

from raysim.compressors.selection import chosen
from raysim.core import streams
from raysim.core.code import FLOAT, Code, Field
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor


@dataclass(frozen=True)
class RandomK(Compressor):
    """Random-k: k = max(1, round(fraction P)) numbers of a row, drawn without replacement; all others become zero.

    Every client draws anew in every round, from a seed that the receiver has too, so that positions need not be sent.
    Scaled, C(x) = (P/k) x at those positions: unbiased, E||C(x) - x||² = (P/k - 1) ||x||². Unscaled it is biased and a
    contraction, E||C(x) - x||² = (1 - k/P) ||x||², which is what ``Feedback`` wants.

    A row takes 32 k bits.

    Paper: Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, 2018, https://arxiv.org/abs/1809.07599; Wangni, Wang,
    Liu, Zhang, Gradient Sparsification for Communication-Efficient Distributed Optimization, 2018,
    https://arxiv.org/abs/1710.09854.

    Args:
        fraction: share of the numbers that is sent, in (0, 1].
        scaled: whether the receiver multiplies them by P/k.
    """

    fraction: Annotated[float, Limits(gt=0, le=1)]
    scaled: bool = True

    @property
    def unbiased(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether numbers are scaled."""
        return self.scaled

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """The numbers at the positions drawn, in increasing order."""
        return {"values": Field(rows_CP.gather(1, self._positions(sender, rows_CP.shape[1])))}

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """The numbers in their places, drawn again; zero elsewhere."""
        values_Ck, P = code["values"].values, sum(s.numel() for s in sender.shapes)
        rows_CP = values_Ck.new_zeros(len(values_Ck), P)
        return rows_CP.scatter_(1, self._positions(sender, P), values_Ck * self._factor(P))

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, float]:
        """In the rows' own memory; positions are drawn once."""
        P = rows_CP.shape[1]
        at_Ck = self._positions(sender, P)
        values_Ck = rows_CP.gather(1, at_Ck).mul_(self._factor(P))
        return rows_CP.zero_().scatter_(1, at_Ck, values_Ck), float(FLOAT * self._kept(P))

    def error(self, shapes: list[torch.Size]) -> float:
        """P/k - 1 if scaled, else 1 - k/P."""
        P = sum(s.numel() for s in shapes)
        return P / self._kept(P) - 1 if self.scaled else 1 - self._kept(P) / P

    def _kept(self, P: int) -> int:
        return max(1, round(self.fraction * P))

    def _factor(self, P: int) -> float:
        return P / self._kept(P) if self.scaled else 1.0

    def _positions(self, sender: Sender, P: int) -> Tensor:
        """Where the k largest of P random integers are, [C, k]."""
        return chosen(sender.key("positions"), lambda key_C: streams.bits(key_C, P), P, self._kept(P))
