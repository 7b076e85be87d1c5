"""Rings: clients on a circle that talk to the next ones."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from scipy.sparse import csr_array

from raysim.core.interfaces import Topology
from raysim.topologies.weights import circulant


@dataclass(frozen=True)
class Ring(Topology):
    """Clients on a circle, each talks to both neighbours.

    w_ii = w_i,i+1 = w_i,i-1 = 1/3 (two clients: 1/2 each). The spectral gap shrinks with 1/n²:
    β = (1 + 2 cos(2π/n)) / 3 for n ≥ 3.

    Paper: Lian, Zhang, Zhang, Hsieh, Zhang, Liu, Can Decentralized Algorithms Outperform Centralized Algorithms? A
    Case Study for Decentralized Parallel Stochastic Gradient Descent, 2017, https://arxiv.org/abs/1705.09056;
    weights as in BlueFog.
    """

    def mixing(self, clients: int, round: int) -> csr_array:
        """W, the same in every round."""
        return _ring(clients)


@dataclass(frozen=True)
class OneSidedRing(Topology):
    """Clients on a circle, each sends to the next one only: w_ii = w_i,i-1 = 1/2.

    Not symmetric, but doubly stochastic; half the messages of a ring, β = cos(π/n).

    Paper: none known; it is the one-directional ring of BlueFog.
    """

    def mixing(self, clients: int, round: int) -> csr_array:
        """W, the same in every round."""
        return _one_sided_ring(clients)


@functools.lru_cache(maxsize=8)
def _ring(clients: int) -> csr_array:
    return circulant(clients, (-1, 0, 1))


@functools.lru_cache(maxsize=8)
def _one_sided_ring(clients: int) -> csr_array:
    return circulant(clients, (0, 1))
