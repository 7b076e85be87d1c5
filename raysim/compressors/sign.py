"""The sign: one bit a number, and how large the numbers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysim.core.code import Code, Field
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor


@dataclass(frozen=True)
class Sign(Compressor):
    """Scaled sign: C(x) = (||x||₁ / d) sign(x), over the d numbers of every layer, or of the whole row.

    The sign of zero is +1, for there is no third value in a bit; numbers that are all zero stay so, since their scale
    is zero. It is a contraction, ||C(x) - x||² = (1 - ||x||₁² / (d ||x||²)) ||x||² ≤ (1 - 1/d) ||x||²: a good one where
    magnitudes are alike, next to none where one number stands out. Being biased it needs ``Feedback`` around it.

    A row takes one bit a number and 32 for each scale. Without a scale C(x) = sign(x), which is no contraction: the
    vote of signSGD, for ``MajorityVote``.

    Paper: Karimireddy, Rebjock, Stich, Jaggi, Error Feedback Fixes SignSGD and other Gradient Compression Schemes,
    2019, https://arxiv.org/abs/1901.09847, whose code scales each layer by itself; Bernstein, Wang, Azizzadenesheli,
    Anandkumar, signSGD: Compressed Optimisation for Non-Convex Problems, 2018, https://arxiv.org/abs/1802.04434.

    Args:
        scale: mean magnitude of each "layer" (a tensor of the model's parameters), of the whole "row", or "none".
    """

    scale: Literal["layer", "row", "none"] = "layer"

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """Bits that say which numbers are at least zero, and the scales [C, layers]."""
        signs = Field(rows_CP >= 0, 1)
        if self.scale == "none":
            return {"signs": signs}
        layers = rows_CP.split(self._lengths(sender.shapes), 1)
        return {"signs": signs, "scales": Field(torch.stack([part.abs().mean(1) for part in layers], 1))}

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """± the scale."""
        rows_CP = signs_of(code)
        if self.scale != "none":
            parts = rows_CP.split(self._lengths(sender.shapes), 1)
            for part, scale_C in zip(parts, code["scales"].values.unbind(1), strict=True):
                part.mul_(scale_C.unsqueeze(1))
        return rows_CP

    def error(self, shapes: list[torch.Size]) -> float | None:
        """1 - 1/d, d the longest layer: one number that stands out, the others zero."""
        return None if self.scale == "none" else 1 - 1 / max(self._lengths(shapes))

    def _lengths(self, shapes: list[torch.Size]) -> list[int]:
        """How many numbers each scale is for."""
        lengths = [s.numel() for s in shapes]
        return lengths if self.scale == "layer" else [sum(lengths)]


def signs_of(code: Code) -> Tensor:
    """+1 for every bit that is set, -1 for every other, [C, P] float32."""
    return code["signs"].values.to(torch.float32).mul_(2).sub_(1)
