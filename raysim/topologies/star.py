"""A star: everyone talks to one client in the middle."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from raysim.core.interfaces import Topology
from raysim.topologies.weights import metropolis


@dataclass(frozen=True)
class Star(Topology):
    """Client 0 talks to all others, they to it alone: w_0j = w_j0 = w_00 = 1/n, w_jj = 1 - 1/n.

    These are the Metropolis weights; β = 1 - 1/n, so a star mixes slowly though any two clients are two hops apart.

    Paper: none known; weights as in BlueFog.
    """

    def mixing(self, clients: int, round: int) -> csr_array:
        """W, the same in every round."""
        return _star(clients)


@functools.lru_cache(maxsize=8)
def _star(clients: int) -> csr_array:
    return metropolis(clients, np.zeros(clients, np.int64), np.arange(clients))
