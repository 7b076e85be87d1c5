"""Top-k sparsification."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field as Limits
from torch import Tensor

from raysim.compressors.selection import chosen, magnitude
from raysim.core.code import FLOAT, Code, Field
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor


@dataclass(frozen=True)
class TopK(Compressor):
    """Top-k: the k numbers of a row that are largest in magnitude, all others zero; k = max(1, round(fraction P)).

    Of numbers of the same magnitude those with the lower positions are kept. It is a contraction:
    ||C(x) - x||² ≤ (1 - k/P) ||x||². With ``per_layer`` every tensor of the model's parameters has a k of its own, of
    the tensor's n numbers, and the least k/n takes the place of k/P.

    A row takes k (32 + ⌈log₂ P⌉) bits, each number with its position, or 32 P, the row in full, where that is less;
    per layer the same of each layer.

    Paper: Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, 2018, https://arxiv.org/abs/1809.07599; Aji, Heafield,
    Sparse Communication for Distributed Gradient Descent, 2017, https://arxiv.org/abs/1704.05021.

    Args:
        fraction: share of the numbers that is sent, in (0, 1].
        per_layer: whether the share is that of every layer by itself, rather than of the whole row.
    """

    fraction: Annotated[float, Limits(gt=0, le=1)]
    per_layer: bool = False

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """Each row's, or layer's, largest numbers and their positions, in increasing order."""
        code: Code = {}
        for i, layer_CP in enumerate(rows_CP.split(self._widths(sender.shapes), 1)):
            width, at_Ck = layer_CP.shape[1], self._largest(layer_CP)
            values_Ck = layer_CP.gather(1, at_Ck)
            if _in_full(at_Ck.shape[1], width):
                values_Ck = torch.zeros_like(layer_CP).scatter_(1, at_Ck, values_Ck)
            else:
                code[f"positions.{i}"] = Field(at_Ck, position_bits(width))
            code[f"values.{i}"] = Field(values_Ck)
        return code

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """The numbers in their places, zero elsewhere."""
        widths = self._widths(sender.shapes)
        first = code["values.0"].values
        rows_CP = first.new_zeros(len(first), sum(widths))
        for i, layer_CP in enumerate(rows_CP.split(widths, 1)):
            values = code[f"values.{i}"].values
            if f"positions.{i}" in code:
                layer_CP.scatter_(1, code[f"positions.{i}"].values, values)
            else:
                layer_CP.copy_(values)
        return rows_CP

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, float]:
        """In the rows' own memory: all but the largest become zero."""
        for layer_CP in rows_CP.split(self._widths(sender.shapes), 1):
            at_Ck = self._largest(layer_CP)
            values_Ck = layer_CP.gather(1, at_Ck)
            layer_CP.zero_().scatter_(1, at_Ck, values_Ck)
        return rows_CP, self._bits(sender.shapes)

    def split(self, rows_CP: Tensor, spare_CP: Tensor, sender: Sender) -> tuple[Tensor, float]:
        """The largest move over to the other memory: zeros in their place, and no subtraction."""
        widths = self._widths(sender.shapes)
        spare_CP.zero_()
        for layer_CP, sent_CP in zip(rows_CP.split(widths, 1), spare_CP.split(widths, 1), strict=True):
            at_Ck = self._largest(layer_CP)
            sent_CP.scatter_(1, at_Ck, layer_CP.gather(1, at_Ck))
            layer_CP.scatter_(1, at_Ck, 0.0)
        return spare_CP, self._bits(sender.shapes)

    def error(self, shapes: list[torch.Size]) -> float:
        """1 - k/P, the largest of all layers."""
        return max(1 - kept(self.fraction, width) / width for width in self._widths(shapes))

    def _widths(self, shapes: list[torch.Size]) -> list[int]:
        """How many numbers every k is chosen from."""
        widths = [s.numel() for s in shapes]
        return widths if self.per_layer else [sum(widths)]

    def _largest(self, layer_CP: Tensor) -> Tensor:
        width = layer_CP.shape[1]
        return chosen(layer_CP, magnitude, width, kept(self.fraction, width))

    def _bits(self, shapes: list[torch.Size]) -> float:
        """Those of the code."""
        bits = 0
        for width in self._widths(shapes):
            k = kept(self.fraction, width)
            bits += FLOAT * width if _in_full(k, width) else k * (FLOAT + position_bits(width))
        return float(bits)


def kept(fraction: float, width: int) -> int:
    """How many of so many numbers: k."""
    return max(1, round(fraction * width))


def position_bits(width: int) -> int:
    """Bits that say which of so many positions."""
    return max(1, math.ceil(math.log2(width)))


def _in_full(k: int, width: int) -> bool:
    """Whether all numbers in order take no more bits than k with their positions."""
    return k * (FLOAT + position_bits(width)) >= FLOAT * width
