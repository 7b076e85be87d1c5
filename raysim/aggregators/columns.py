"""What aggregators share: passes over rows, a few columns at a time, so that little memory is needed beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Union

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raysim.core.plugin import CountOrZero

Part = Union[CountOrZero, Annotated[float, Field(ge=0, lt=0.5)]]  # noqa: UP007 (an alias, evaluated on 3.10)
"""A number of rows, or a share of them."""
PIECE = 1 << 18  # numbers worked on at once, one megabyte: more was no faster


def count(part: int | float, rows: int) -> int:
    """How many of ``rows`` a part is; a share is rounded up."""
    return part if isinstance(part, int) else math.ceil(round(part * rows, 9))


def pieces(rows_CP: Tensor) -> Iterator[slice]:
    """Columns, some at a time."""
    C, P = rows_CP.shape
    width = max(1, PIECE // C)
    return (slice(a, min(a + width, P)) for a in range(0, P, width))


def sorted_columns(rows_CP: Tensor) -> Iterator[tuple[slice, np.ndarray]]:
    """Each piece of the columns with its values in increasing order, [columns, C]; NaN counts as the largest.

    NumPy sorts with vector instructions: a hundred rows ten to twenty times faster than torch sorts, takes the k-th
    value or the largest k, and no slower than its own partition.
    """
    for piece in pieces(rows_CP):
        values = rows_CP[:, piece].t().clone(memory_format=torch.contiguous_format).numpy()
        values.sort(axis=1)
        yield piece, values


def median(rows_CP: Tensor) -> Tensor:
    """The median of every column, [P]; of an even number of values the mean of the middle two."""
    low, high = (len(rows_CP) - 1) // 2, len(rows_CP) // 2
    out_P = torch.empty_like(rows_CP[0])
    for piece, values in sorted_columns(rows_CP):
        out_P[piece] = torch.from_numpy(values[:, low] / 2 + values[:, high] / 2)
    return out_P


def distances(rows_CP: Tensor, point_P: Tensor) -> Tensor:
    """||x_i - z|| for every row, float64 [C]."""
    square_C = torch.zeros(len(rows_CP), dtype=torch.float64, device=rows_CP.device)
    for piece in pieces(rows_CP):
        square_C += (rows_CP[:, piece] - point_P[piece]).norm(dim=1).double().square_()
    return square_C.sqrt_()


def finite(rows_CP: Tensor) -> Tensor:
    """The rows with a finite length in float32: others, not numbers or beyond 1e19, are as if infinitely far away.

    All rows where there is none of them.
    """
    keep_C = rows_CP.norm(dim=1).isfinite()
    return rows_CP if keep_C.all() or not keep_C.any() else rows_CP[keep_C]
