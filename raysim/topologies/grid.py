"""Grids: clients on a rectangle that talk to the ones beside, above and below."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from raysim.core.interfaces import Topology
from raysim.topologies.weights import metropolis


@dataclass(frozen=True)
class Grid(Topology):
    """Clients on a rectangle without wrap-around, Metropolis weights.

    The sides are the two factors of n closest to each other (a prime number of clients is a line); client
    row · columns + column. w_ij = 1 / max(d_i, d_j) for neighbours, where the degrees count the client itself;
    w_ii = 1 - Σ_j w_ij.

    Paper: Chen, Yuan, Zhang, Pan, Xu, Yin, Accelerating Gossip SGD with Periodic Global Averaging, 2021,
    https://arxiv.org/abs/2105.09080; weights as in BlueFog's MeshGrid2DGraph.
    """

    def mixing(self, clients: int, round: int) -> csr_array:
        """W, the same in every round."""
        return _grid(clients)


@dataclass(frozen=True)
class Torus(Topology):
    """Clients on a rectangle whose opposite sides meet: every client has four neighbours, w = 1/5 each.

    The sides are the two factors of n closest to each other. On a side of length 1 or 2 both neighbours are one:
    it counts once, and weights are Metropolis weights throughout.

    Paper: none known. The grid with wrap-around is a usual graph in gossip experiments, such as Koloskova, Stich,
    Jaggi, Decentralized Stochastic Optimization and Gossip Algorithms with Compressed Communication, 2019,
    https://arxiv.org/abs/1902.00340.
    """

    def mixing(self, clients: int, round: int) -> csr_array:
        """W, the same in every round."""
        return _torus(clients)


def sides(clients: int) -> tuple[int, int]:
    """Rows and columns: the two factors closest to each other, rows ≤ columns."""
    rows = next(r for r in range(math.isqrt(clients), 0, -1) if clients % r == 0)
    return rows, clients // rows


@functools.lru_cache(maxsize=8)
def _grid(clients: int) -> csr_array:
    id_RC = np.arange(clients).reshape(sides(clients))
    a = [id_RC[:, :-1], id_RC[:-1]]
    b = [id_RC[:, 1:], id_RC[1:]]
    return metropolis(clients, _joined(a), _joined(b))


@functools.lru_cache(maxsize=8)
def _torus(clients: int) -> csr_array:
    id_RC = np.arange(clients).reshape(sides(clients))
    beside, below = np.roll(id_RC, -1, axis=1), np.roll(id_RC, -1, axis=0)
    return metropolis(clients, _joined([id_RC, id_RC]), _joined([beside, below]))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in parts])
