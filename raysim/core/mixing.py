"""Mixing: what gossip does to rows, x_i <- sum_j w_ij x_j, for a sparse matrix over many clients.

Every row is summed over its neighbours in the order of their ids, by the same kernel wherever the row lives, so that
the bits do not depend on how clients are spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from raysim.core.rows import RowStore

CHUNK = 2 << 20  # bytes of mixed rows on their way at a time: smaller pays for calls, larger leaves the cache


@dataclass(frozen=True)
class Mixing:
    """Rows of a mixing matrix for some clients, by client id.

    Args:
        ids_C: the clients whose new rows these are.
        start_C: where each one's neighbours begin in ``neighbour_E``, [C + 1].
        neighbour_E: ids of neighbours (and of the client itself, where it keeps a share).
        weight_E: their weights, float32.
    """

    ids_C: np.ndarray
    start_C: np.ndarray
    neighbour_E: np.ndarray
    weight_E: np.ndarray

    @classmethod
    def of(cls, matrix_NN: csr_array, ids_N: np.ndarray) -> Mixing:
        """The matrix whose k-th row and column belong to client ``ids_N[k]``; ids in increasing order."""
        matrix = csr_array(matrix_NN, copy=True)  # a topology may keep its own
        matrix.eliminate_zeros()
        matrix.sort_indices()
        return cls(
            ids_N, matrix.indptr.astype(np.int64), ids_N[matrix.indices], matrix.data.astype(np.float32)
        )

    def part(self, chosen: np.ndarray) -> Mixing:
        """The rows at these positions."""
        begin, count = self.start_C[chosen], np.diff(self.start_C)[chosen]
        start = np.concatenate([[0], np.cumsum(count)])
        edge = np.repeat(begin - start[:-1], count) + np.arange(start[-1])
        return Mixing(self.ids_C[chosen], start, self.neighbour_E[edge], self.weight_E[edge])

    def messages(self) -> np.ndarray:
        """How many other clients each client's row goes to, in the order of ``ids_C`` (which must be all of them)."""
        sent = self.neighbour_E[np.repeat(self.ids_C, np.diff(self.start_C)) != self.neighbour_E]
        return np.bincount(np.searchsorted(self.ids_C, sent), minlength=len(self.ids_C))


def mix(store: RowStore, name: str, mixing: Mixing, halo_ids: np.ndarray, halo_HP: Tensor | None) -> None:
    """Replace rows ``name`` of the mixing's clients by their weighted sums.

    Args:
        store: the rows of this host.
        name: which rows.
        mixing: rows of the matrix for clients of this host.
        halo_ids: neighbours that live on other hosts.
        halo_HP: their rows, [H, P].
    """
    old = store.tensors[name]
    new = store.spare(name)
    slots = store.slots(mixing.ids_C)
    order = np.argsort(slots)
    mixing, slots = mixing.part(order), slots[order]
    far = np.isin(mixing.neighbour_E, halo_ids)
    outer = np.zeros(len(slots), bool)
    np.logical_or.at(outer, np.repeat(np.arange(len(slots)), np.diff(mixing.start_C)), far)
    inner, edge = np.flatnonzero(~outer), np.flatnonzero(outer)
    part = mixing.part(inner)
    _mix_rows(new, slots[inner], old, store.slots(part.neighbour_E), part)
    if len(edge):
        part = mixing.part(edge)
        near = np.setdiff1d(part.neighbour_E, halo_ids)
        assert halo_HP is not None
        table = old.new_zeros(len(near) + len(halo_ids), old.shape[1])
        table[: len(near)] = old[torch.from_numpy(store.slots(near))]
        table[len(near) :, : halo_HP.shape[1]] = halo_HP
        ids = np.concatenate([near, halo_ids])
        by_id = np.argsort(ids)
        row_E = by_id[np.searchsorted(ids[by_id], part.neighbour_E)]
        _mix_rows(new, slots[edge], table, row_E, part)
    kept = np.setdiff1d(np.fromiter(store.slot.values(), np.int64, len(store.slot)), slots)
    if len(kept):
        index = torch.from_numpy(kept).to(old.device)
        new[index] = old[index]
    store.swap(name, new)


def _mix_rows(new_RP: Tensor, slots: np.ndarray, table_RP: Tensor, row_E: np.ndarray, mixing: Mixing) -> None:
    """new[slots] = sum_j w_ij table[j], one pass over memory, each row by itself, some rows at a time."""
    put = lambda a: torch.from_numpy(np.ascontiguousarray(a)).to(table_RP.device)
    row, start, weight = put(row_E), put(mixing.start_C), put(mixing.weight_E)
    rows = max(1, CHUNK // (4 * table_RP.shape[1]))
    for a in range(0, len(slots), rows):
        b = min(len(slots), a + rows)
        first, last = int(mixing.start_C[a]), int(mixing.start_C[b])
        mixed_CP = F.embedding_bag(
            row[first:last],
            table_RP,
            start[a:b] - first,
            mode="sum",
            per_sample_weights=weight[first:last],
        )
        _put(new_RP, slots[a:b], mixed_CP)


def _put(new_RP: Tensor, slots: np.ndarray, rows_CP: Tensor) -> None:
    if (np.diff(slots) == 1).all():
        new_RP[slots[0] : slots[0] + len(slots)] = rows_CP
    else:
        new_RP[torch.from_numpy(slots).to(new_RP.device)] = rows_CP
