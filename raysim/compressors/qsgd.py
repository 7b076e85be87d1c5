"""QSGD: stochastic rounding to a few levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field as Limits
from torch import Tensor

from raysim.core import streams
from raysim.core.code import FLOAT, Code, Field
from raysim.core.plugin import Count
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor


@dataclass(frozen=True)
class QSGD(Compressor):
    """QSGD: every number of a bucket v becomes ||v|| sign(v_j) ξ_j, with ξ_j one of the levels 0, 1/s, 2/s, ..., 1.

    With l = ⌊s |v_j| / ||v||⌋, ξ_j = (l + 1)/s with probability s |v_j| / ||v|| - l, else l/s: unbiased. A bucket is d
    numbers of a row, one after the other; ||v|| is its Euclidean norm, or its largest magnitude, which loses less where
    numbers are alike.

    With the Euclidean norm E||C(x) - x||² ≤ c ||x||², c = d/(4s²) for d ≤ 4s² and √d/s - 1 beyond: never above the
    paper's min(d/s², √d/s). With the maximum c = ½ (√(1 + (d - 1)/s²) - 1). The second and the last are reached, by
    buckets in which all numbers, or all but one, have a certain magnitude.

    A number takes 1 + ⌈log₂(s + 1)⌉ bits, a bucket 32 more. The paper's variable-length code, shorter where most levels
    are zero, is not used.

    Paper: Alistarh, Grubic, Li, Tomioka, Vojnovic, QSGD: Communication-Efficient SGD via Gradient Quantization and
    Encoding, 2017, https://arxiv.org/abs/1610.02132.

    Args:
        levels: s, levels above zero, 1 to 32767: 1 leaves sign or zero, 127 takes a byte a number.
        bucket: d, numbers that share a norm, at least 1; None for the whole row.
        norm: "l2" for the Euclidean norm, "max" for the largest magnitude.
    """

    unbiased: ClassVar[bool] = True

    levels: Annotated[int, Limits(ge=1, le=32767)]
    bucket: Count | None = 512
    norm: Literal["l2", "max"] = "l2"

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """Each bucket's norm; each number's sign and level."""
        norm_CB, level_CBd = self._levels(rows_CP, sender)
        level_CP = level_CBd.flatten(1)[:, : rows_CP.shape[1]]
        return {
            "norms": Field(norm_CB),
            "negative": Field(level_CP < 0, 1),
            "levels": Field(level_CP.abs().to(torch.int32), self._bits),
        }

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """||v|| sign level / s."""
        sign_CP = code["negative"].values.to(torch.float32).mul_(-2).add_(1)
        level_CBd = self._buckets(sign_CP.mul_(code["levels"].values))
        return self._values(code["norms"].values, level_CBd)[:, : sign_CP.shape[1]].contiguous()

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, float]:
        """Encode and decode, without writing signs and levels as integers."""
        P = rows_CP.shape[1]
        norm_CB, level_CBd = self._levels(rows_CP, sender)
        bits = FLOAT * norm_CB.shape[1] + (1 + self._bits) * P
        return rows_CP.copy_(self._values(norm_CB, level_CBd)[:, :P]), float(bits)

    def error(self, shapes: list[torch.Size]) -> float:
        """The factor c of the longest bucket."""
        d, s = self._width(sum(shape.numel() for shape in shapes)), self.levels
        if self.norm == "max":
            return (math.sqrt(1 + (d - 1) / s**2) - 1) / 2
        return d / (4 * s**2) if d <= 4 * s**2 else math.sqrt(d) / s - 1

    @property
    def _bits(self) -> int:
        return math.ceil(math.log2(self.levels + 1))

    def _levels(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor]:
        """Norms [C, B], and levels with the numbers' signs, as floats [C, B, d]."""
        P = rows_CP.shape[1]
        level_CBd = self._buckets(rows_CP).abs_()
        norm_CB = level_CBd.amax(2) if self.norm == "max" else _length(level_CBd)
        level_CBd.div_(torch.where(norm_CB > 0, norm_CB, 1).unsqueeze(2)).mul_(self.levels)
        level_CP = level_CBd.flatten(1)[:, :P].clamp_(max=self.levels)
        draw_CP = streams.uniform(sender.key("rounding"), P)
        up_CP = draw_CP.neg_().add_(level_CP.frac()).ceil_()  # draw < fraction, as 0 or 1
        level_CP.floor_().add_(up_CP).mul_(rows_CP.sign())
        return norm_CB, level_CBd

    def _values(self, norm_CB: Tensor, level_CBd: Tensor) -> Tensor:
        """What the levels stand for, in place, with what fills up the last bucket."""
        return level_CBd.div_(self.levels).mul_(norm_CB.unsqueeze(2)).flatten(1)

    def _width(self, P: int) -> int:
        return P if self.bucket is None else min(self.bucket, P)

    def _buckets(self, rows_CP: Tensor) -> Tensor:
        """A copy of the rows, cut into buckets [C, B, d], the last filled up with zeros."""
        P = rows_CP.shape[1]
        d = self._width(P)
        copy_CP = rows_CP.new_zeros(len(rows_CP), -(-P // d) * d)
        copy_CP[:, :P] = rows_CP
        return copy_CP.unflatten(1, (-1, d))


def _length(size_CBd: Tensor) -> Tensor:
    """Euclidean norms, of numbers too small to be squared in float32 too."""
    return torch.linalg.vector_norm(size_CBd, dim=2, dtype=torch.float64).to(torch.float32)
