"""Mixing matrices from graphs: doubly stochastic weights that every client can work out from its neighbours.

A matrix has sorted rows without zeros, and topologies keep it from round to round: nobody may write to it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.sparse import csr_array


def circulant(clients: int, offsets: Iterable[int]) -> csr_array:
    """Every client i sends to i + offset for each offset (0 is itself), all weights equal: w_ij = 1 / #offsets.

    Args:
        clients: n; ids are taken modulo n, and offsets that coincide then count once.
        offsets: distances around the circle.

    Returns:
        W [n, n]; row i has j = i - offset, as a receiver mixes what reaches it.
    """
    offset_D = np.unique(np.fromiter(offsets, np.int64) % clients)
    column_ND = np.sort((np.arange(clients)[:, None] - offset_D) % clients, axis=1)
    start = np.arange(clients + 1) * len(offset_D)
    weight = np.full(column_ND.size, 1 / len(offset_D))
    return csr_array((weight, column_ND.ravel(), start), shape=(clients, clients))


def metropolis(clients: int, a_E: np.ndarray, b_E: np.ndarray) -> csr_array:
    """Metropolis weights of an undirected graph: w_ij = 1 / max(d_i, d_j), w_ii = 1 - Σ_j w_ij.

    The degree d_i counts the client itself, so that no w_ii is 0 (Xiao, Boyd, Lall, A Scheme for Robust Distributed
    Sensor Fusion Based on Average Consensus, 2005, https://doi.org/10.1109/IPSN.2005.1440896). On a regular graph
    all weights are equal.

    Args:
        clients: n.
        a_E: one end of every edge; an edge given twice counts once, a loop not at all.
        b_E: the other end.

    Returns:
        W [n, n], symmetric.
    """
    low, high = np.minimum(a_E, b_E).astype(np.int64), np.maximum(a_E, b_E).astype(np.int64)
    low, high = np.divmod(np.unique((low * clients + high)[low < high]), clients)
    degree_N = 1 + np.bincount(low, minlength=clients) + np.bincount(high, minlength=clients)
    weight = 1 / np.maximum(degree_N[low], degree_N[high])
    own_N = 1 - np.bincount(low, weight, clients) - np.bincount(high, weight, clients)
    everyone = np.arange(clients)
    row, column = np.concatenate([low, high, everyone]), np.concatenate([high, low, everyone])
    matrix = csr_array((np.concatenate([weight, weight, own_N]), (row, column)), shape=(clients, clients))
    matrix.sort_indices()
    return matrix
