"""Which k numbers of a row are the largest, exactly: what is drawn or kept must not depend on blocks or devices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

PIECE = {
    "cpu": 1 << 18,
    "cuda": 1 << 26,
}  # numbers ranked at once: in the cache of a CPU, few launches on a GPU

STRIDE = 16


def chosen(source: Tensor, rank: Callable[[Tensor], Tensor], width: int, k: int) -> Tensor:
    """Positions of the k largest ranks of each row, [C, k], in increasing order; of equals the first.

    Args:
        source: what ranks are made of, one entry or row per client.
        rank: makes integers [c, width] of some of the clients' source.
        width: of a row.
        k: at most the width.
    """
    rows = max(1, PIECE.get(source.device.type, PIECE["cuda"]) // width)
    parts = [largest(rank(piece), k) for piece in source.split(rows)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def magnitude(rows_CP: Tensor) -> Tensor:
    """Integers in the order of the numbers' magnitudes, NaN above all: float32 without the bit of the sign."""
    return rows_CP.view(torch.int32) & 0x7FFFFFFF


def largest(rank_CP: Tensor, k: int) -> Tensor:
    """As ``chosen``, of integers that are there."""
    return _by_partition(rank_CP.numpy(), k) if rank_CP.device.type == "cpu" else by_topk(rank_CP, k)


def _by_partition(rank_CP: np.ndarray, k: int) -> Tensor:
    """By numpy, whose quickselect uses all of a CPU's vector registers: some twenty times as fast as topk."""
    C, P = rank_CP.shape
    at = _candidates(rank_CP, k)
    bounds = np.searchsorted(at, np.arange(C + 1) * P)
    rank, number = rank_CP.reshape(-1)[at], np.diff(bounds)
    pieces = [rank[a:b] for a, b in itertools.pairwise(bounds)]
    least_C = np.array([np.partition(piece, len(piece) - k)[len(piece) - k] for piece in pieces])
    keep = rank >= np.repeat(least_C, number)
    at, row, rank = at[keep], np.repeat(np.arange(C), number)[keep], rank[keep]
    if len(at) > C * k:
        tied = rank == least_C[row]
        room_C = k - np.bincount(row[~tied], minlength=C)
        before = np.cumsum(tied) - tied  # equals before this one, in this row and the rows above
        turn = before - before[np.searchsorted(row, np.arange(C))][row]
        keep = ~tied | (turn < room_C[row])
        at, row = at[keep], row[keep]
    return torch.from_numpy((at - row * P).reshape(C, k))


def _candidates(rank_CP: np.ndarray, k: int) -> np.ndarray:
    """Positions in the flattened rows among which are the k largest of every row, few of them where k is small.

    Every 16th rank says where to draw the line, well below where it expects k. Should it mislead, all are candidates.
    """
    C, P = rank_CP.shape
    place = k // STRIDE + 4 * math.isqrt(k // STRIDE) + 8  # four standard deviations on the safe side
    sample = rank_CP[:, ::STRIDE]
    if 4 * place < sample.shape[1]:
        line_C = np.partition(sample, -place, axis=1)[:, -place]
        at = np.flatnonzero(rank_CP >= line_C[:, None])
        if (np.diff(np.searchsorted(at, np.arange(C + 1) * P)) >= k).all():
            return at
    return np.arange(C * P)


def by_topk(rank_CP: Tensor, k: int) -> Tensor:
    """The same on any device."""
    least_C1 = rank_CP.topk(k, 1, sorted=False).values.amin(1, keepdim=True)
    keep_CP = rank_CP >= least_C1
    if (keep_CP.sum(1) > k).any():  # topk alone leaves open which of equals it takes
        tied_CP = rank_CP == least_C1
        room_C1 = k - (rank_CP > least_C1).sum(1, keepdim=True)
        keep_CP &= ~tied_CP | (tied_CP.cumsum(1) <= room_C1)
    return keep_CP.nonzero()[:, 1].view(len(rank_CP), k)
