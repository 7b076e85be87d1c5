"""The complete graph: everyone talks to everyone."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from raysim.core.interfaces import Topology
from raysim.core.plugin import ConfigError

MOST = 5000
"""Clients beyond which n² weights are no longer sensible (here they take 0.4 GB)."""


@dataclass(frozen=True)
class Complete(Topology):
    """Everyone talks to everyone: w_ij = 1/n, so that one round of mixing is the exact average.

    A round costs n (n - 1) messages. It is there to compare with; the rule Averaging reaches the same models for 2 n.

    Paper: none. W = 11ᵀ/n is the definition of averaging.
    """

    def fit(self, clients: int) -> None:
        """Refuse matrices that would fill the memory."""
        if clients > MOST:
            raise ConfigError(
                f"Complete with {clients} clients has {clients**2:.1e} weights; at most {MOST} clients are possible. "
                "Use the rule Averaging, which does the same with a server, or StaticExponential."
            )

    def mixing(self, clients: int, round: int) -> csr_array:
        """W, the same in every round."""
        self.fit(clients)
        return _complete(clients)


@functools.lru_cache(maxsize=1)
def _complete(clients: int) -> csr_array:
    column = np.tile(np.arange(clients, dtype=np.int32), clients)
    start = np.arange(clients + 1, dtype=np.int32) * clients
    return csr_array((np.full(clients**2, 1 / clients), column, start), shape=(clients, clients))
