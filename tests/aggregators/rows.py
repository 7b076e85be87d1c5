"""Rows to aggregate, and one call for it."""

import torch

from raysim.core import streams

KEY = streams.key(11, "aggregate")


def rows(C, P, seed=0):
    """Standard normal rows."""
    return streams.normal(streams.key(seed, "rows"), C, P)


def combined(aggregator, rows_CP, before_P=None, key=KEY):
    """What an aggregator makes of rows, which it must leave as they are."""
    copy = rows_CP.clone()
    out_P = aggregator.combine(rows_CP, key, torch.zeros(rows_CP.shape[1]) if before_P is None else before_P)
    torch.testing.assert_close(rows_CP, copy, rtol=0, atol=0, equal_nan=True)
    assert out_P.shape == rows_CP.shape[1:]
    return out_P
