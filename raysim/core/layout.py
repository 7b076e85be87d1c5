"""Memory layout that keeps bits the same: matrix products may round differently for operands aligned differently.

The same rows can lie anywhere in a store, the same vector can come from a file, a message or an allocation. Here all
of them begin at multiples of ``ALIGN`` bytes, so that where something lay never shows in a result.
"""

from __future__ import annotations

import torch
from torch import Tensor

ALIGN = 64  # bytes: a cache line, the width of the widest vector registers


def aligned(tensor: Tensor) -> Tensor:
    """The tensor itself if its memory begins at a multiple of ALIGN, else a copy that does."""
    return tensor.clone() if tensor.data_ptr() % ALIGN else tensor


def padded(width: int, dtype: torch.dtype = torch.float32) -> int:
    """Elements from the beginning of one row to the next, so that every row is aligned."""
    unit = ALIGN // dtype.itemsize
    return -(-width // unit) * unit
