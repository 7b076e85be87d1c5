"""Natural compression: powers of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.code import Code, Field
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor

MANTISSA = 23  # bits of a float32's mantissa; the exponent's eight and the sign are above
INFINITE = 0xFF << MANTISSA


@dataclass(frozen=True)
class Natural(Compressor):
    """Natural compression: every number is rounded at random to one of the two powers of two around its magnitude.

    For 2^a ≤ |x| < 2^(a+1): sign(x) 2^(a+1) with probability (|x| - 2^a) / 2^a, else sign(x) 2^a. Unbiased, and zero
    and powers of two are left as they are; E||C(x) - x||² ≤ ||x||² / 8.

    On floats it is one addition: a random mantissa is added to the number's own, and what is carried over goes to the
    exponent. Numbers below 2^-126 become zero or 2^-126, also unbiased but without the bound; those from 2^127 on may
    become infinite.

    A number takes 9 bits, sign and exponent.

    Paper: Horváth, Ho, Horváth, Sahu, Canini, Richtárik, Natural Compression for Distributed Deep Learning, 2019,
    https://arxiv.org/abs/1905.10988.
    """

    unbiased: ClassVar[bool] = True

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """Signs, and exponents as floats have them."""
        return {
            "negative": Field(rows_CP < 0, 1),
            "exponents": Field((self._rounded(rows_CP, sender) >> MANTISSA).to(torch.uint8), 8),
        }

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """Floats with a mantissa of zero."""
        power_CP = (code["exponents"].values.to(torch.int32) << MANTISSA).view(torch.float32)
        return torch.where(code["negative"].values, -power_CP, power_CP)

    def error(self, shapes: list[torch.Size]) -> float:
        """One eighth, reached for 4/3 of a power of two."""
        return 1 / 8

    def _rounded(self, rows_CP: Tensor, sender: Sender) -> Tensor:
        """Magnitudes as the integers with their bits; of these only the exponent counts."""
        size_CP = (rows_CP.view(torch.int32) & 0x7FFFFFFF).clamp_(max=INFINITE)  # no NaN: room to add
        drawn_CP = streams.bits(sender.key("rounding"), rows_CP.shape[1]).to(torch.int32)
        return size_CP.add_(drawn_CP.bitwise_and_((1 << MANTISSA) - 1))
