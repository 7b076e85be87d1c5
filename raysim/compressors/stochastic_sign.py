"""The stochastic sign: +1 the more probable, the larger the number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysim.compressors.sign import signs_of
from raysim.core import streams
from raysim.core.code import Code, Field
from raysim.core.plugin import Positive
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor


@dataclass(frozen=True)
class StochasticSign(Compressor):
    """Stochastic sign (sto-sign): +1 with probability (b + g) / (2b), else -1, for every number g of a row by itself.

    Its mean is g / b, so that a majority of such votes leans towards the sign of Σ_i g_i, which the majority of plain
    signs may well miss. A small bound b decides more votes, a large one leaves more to chance. Numbers beyond the bound
    are clipped to [-b, b] first, so b → 0 gives the sign itself. Times b (``scaled``) the mean is the number, as far as
    it is within the bound.

    With ``bound="max"`` b is the largest magnitude of each client's own row. Scaled, it is then sent along and the
    message is unbiased whatever the row: E||C(x) - x||² = P b² - ||x||² ≤ (P - 1) ||x||². Unscaled, every client's
    votes lean by numbers relative to its own largest, and clients with small gradients count as much as others.

    A row takes one bit a number, and 32 more for b where that is sent. Probabilities are multiples of 2^-24.

    Paper: Jin, Huang, He, Dai, Wu, Stochastic-Sign SGD for Federated Learning with Theoretical Guarantees, 2020,
    https://arxiv.org/abs/2002.10940. There b is at least any client's magnitude; clipping and "max" are raysim's.

    Args:
        bound: b, above 0, in the unit of the numbers sent; or "max".
        scaled: whether the receiver makes ±b of the bits, rather than ±1.
    """

    bound: Positive | Literal["max"]
    scaled: bool = False

    @property
    def unbiased(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether no number can be beyond the bound, and the receiver knows it."""
        return self.scaled and self.bound == "max"

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """A bit for every number: whether a uniform number is below the probability of +1."""
        code = {
            "signs": Field(self._chance(rows_CP) > streams.uniform(sender.key("sign"), rows_CP.shape[1]), 1)
        }
        if self.unbiased:
            code["bound"] = Field(largest(rows_CP))
        return code

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """±1, or ±b."""
        rows_CP = signs_of(code)
        if not self.scaled:
            return rows_CP
        return rows_CP.mul_(code["bound"].values if self.bound == "max" else self.bound)

    def error(self, shapes: list[torch.Size]) -> float | None:
        """P - 1 where the bound is each row's own: one number that stands out, the others zero."""
        return float(sum(s.numel() for s in shapes) - 1) if self.unbiased else None

    def _chance(self, rows_CP: Tensor) -> Tensor:
        """(b + g) / (2b), one half where all is zero, [C, P]."""
        if self.bound != "max":
            return (rows_CP / self.bound).clamp_(-1, 1).add_(1).div_(2)
        return (rows_CP / largest(rows_CP).clamp(min=torch.finfo(rows_CP.dtype).tiny)).add_(1).div_(2)


def largest(rows_CP: Tensor) -> Tensor:
    """The largest magnitude of each row, [C, 1]."""
    return rows_CP.abs().amax(1, keepdim=True)
