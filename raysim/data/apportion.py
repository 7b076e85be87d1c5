"""Whole numbers in given proportions."""

from __future__ import annotations

import numpy as np


def apportion(total: int, weight: np.ndarray) -> np.ndarray:
    """Integers that sum to ``total``, as near to proportional to ``weight`` as they go.

    The largest remainders are rounded up.

    Args:
        total: what to distribute.
        weight: non-negative numbers, not all zero; ties go to the first.
    """
    share = total * (weight / weight.sum())
    whole = np.floor(share).astype(np.int64)
    left = total - int(whole.sum())
    whole[np.argsort(whole - share, kind="stable")[:left]] += 1
    return whole
