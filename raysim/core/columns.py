"""Arithmetic on rows [C, P] with coefficients that are one number for all rows or a column [C, 1] of them.

torch's fused operations take plain numbers only (``alpha=``, ``value=``), so each function has a line for
either. All write in place, with plain numbers in one pass over memory where the buffers are contiguous
(elsewhere torch.compile refuses ``out=``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Coefficient = float | Tensor
"""A number, or a column [C, 1] with one number per row."""


def is_zero(a: Coefficient) -> bool:
    """Whether a term can be left out; a column never is, since some of its rows may need the term."""
    return not isinstance(a, Tensor) and a == 0


def is_one(a: Coefficient) -> bool:
    """Whether a factor can be left out."""
    return not isinstance(a, Tensor) and a == 1


def some(a: Coefficient, index_A: Tensor) -> Coefficient:
    """The coefficients of some rows."""
    return a[index_A] if isinstance(a, Tensor) and a.dim() == 2 else a


def add(x_CP: Tensor, y_CP: Tensor, a: Coefficient) -> None:
    """Add: x <- x + a y; y may be one row [P] for all."""
    if isinstance(a, Tensor):
        x_CP.addcmul_(y_CP, a)
    else:
        x_CP.add_(y_CP, alpha=a)


def decay_and_add(x_CP: Tensor, y_CP: Tensor, a: Coefficient) -> None:
    """Accumulate: x <- a x + y."""
    if isinstance(a, Tensor) or not x_CP.is_contiguous():
        x_CP.mul_(a).add_(y_CP)
    else:
        torch.add(y_CP, x_CP, alpha=a, out=x_CP)


def root_into(x_CP: Tensor, y_CP: Tensor) -> None:
    """Square root: x <- sqrt(y)."""
    if x_CP.is_contiguous():
        torch.sqrt(y_CP, out=x_CP)
    else:
        x_CP.copy_(y_CP).sqrt_()


def subtract_quotient(x_CP: Tensor, over_CP: Tensor, under_CP: Tensor, a: Coefficient) -> None:
    """Scaled step: x <- x - a over / under; ``under_CP`` may be overwritten."""
    if isinstance(a, Tensor):
        x_CP.addcmul_(under_CP.reciprocal_().mul_(over_CP), a, value=-1)
    else:
        x_CP.addcdiv_(over_CP, under_CP, value=-a)


def one_minus_power(a: Coefficient, exponent_C1: Tensor) -> Tensor:
    """1 - a^exponent for 0 <= a < 1, without the loss of digits that float32 has for a near 1."""
    log = torch.log(a) if isinstance(a, Tensor) else math.log(a) if a > 0 else -math.inf
    return -torch.expm1(exponent_C1 * log)
