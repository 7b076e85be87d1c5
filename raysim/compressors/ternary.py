"""TernGrad: minus, zero or plus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.code import FLOAT, Code, Field
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor

TRITS = 5  # in a byte: 3^5 = 243


@dataclass(frozen=True)
class Ternary(Compressor):
    """TernGrad: every number of a layer, or of the whole row, becomes s sign(x) with probability |x| / s, else zero.

    s is the largest magnitude of the layer (or row). Unbiased; E||C(x) - x||² ≤ ½ (√d - 1) ||x||² for d numbers with
    one scale, reached where all but one have a certain magnitude. The paper clips numbers at 2.5 standard deviations
    of their layer before, which is biased and not done here.

    A number takes 1.6 bits, for five fit into a byte, a scale 32.

    Paper: Wen, Xu, Yan, Wu, Wang, Chen, Li, TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep
    Learning, 2017, https://arxiv.org/abs/1705.07878.

    Args:
        per_layer: whether every tensor of the model's parameters has a scale of its own, rather than the whole row one.
    """

    unbiased: ClassVar[bool] = True

    per_layer: bool = True

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """The scales, and minus, zero or plus as 0, 1 or 2, five to a byte."""
        scale_CL, sign_CP = self._signs(rows_CP, sender)
        return {"scales": Field(scale_CL), "trits": Field(_packed(sign_CP), 8)}

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """Scale times sign."""
        sign_CP = _unpacked(code["trits"].values, sum(s.numel() for s in sender.shapes))
        return self._scaled(code["scales"].values, sign_CP, sender)

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, float]:
        """Encode and decode, without packing signs in bytes."""
        bits = FLOAT * len(self._widths(sender.shapes)) + 8 * math.ceil(rows_CP.shape[1] / TRITS)
        return self._scaled(*self._signs(rows_CP, sender), sender), float(bits)

    def error(self, shapes: list[torch.Size]) -> float:
        """½ (√d - 1) of the longest layer."""
        return (math.sqrt(max(self._widths(shapes))) - 1) / 2

    def _widths(self, shapes: list[torch.Size]) -> list[int]:
        """How many numbers each scale is for."""
        widths = [s.numel() for s in shapes]
        return widths if self.per_layer else [sum(widths)]

    def _signs(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor]:
        """The scales [C, L], and the signs as floats, zero where the draw says so."""
        chance_CP = rows_CP.abs()
        layers = chance_CP.split(self._widths(sender.shapes), 1)
        scale_CL = torch.stack([layer.amax(1) for layer in layers], 1)
        for layer, scale_C in zip(layers, scale_CL.unbind(1), strict=True):
            layer.div_(torch.where(scale_C > 0, scale_C, 1).unsqueeze(1))
        draw_CP = streams.uniform(sender.key("rounding"), rows_CP.shape[1])
        hit_CP = chance_CP.sub_(draw_CP).ceil_()  # draw < chance, as 0 or 1
        return scale_CL, hit_CP.mul_(rows_CP.sign())

    def _scaled(self, scale_CL: Tensor, sign_CP: Tensor, sender: Sender) -> Tensor:
        """Every layer's signs times its scale, in place."""
        for i, layer in enumerate(sign_CP.split(self._widths(sender.shapes), 1)):
            layer.mul_(scale_CL[:, i : i + 1])
        return sign_CP


def _packed(sign_CP: Tensor) -> Tensor:
    """Five signs as one number below 243, the first of them the most significant; zeros are added at the end."""
    C, P = sign_CP.shape
    trit = sign_CP.new_ones(C, math.ceil(P / TRITS) * TRITS, dtype=torch.uint8)
    trit[:, :P] = sign_CP + 1
    trit = trit.unflatten(1, (-1, TRITS))
    byte = trit[..., 0].clone()
    for j in range(1, TRITS):
        byte.mul_(3).add_(trit[..., j])
    return byte


def _unpacked(byte: Tensor, P: int) -> Tensor:
    """The first P signs, as floats."""
    trit = byte.new_empty(*byte.shape, TRITS)
    for j in reversed(range(TRITS)):
        trit[..., j] = byte % 3
        byte = byte.div(3, rounding_mode="floor")
    return trit.flatten(1)[:, :P].to(torch.float32).sub_(1)
