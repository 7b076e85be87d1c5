"""How fast a topology mixes: β = ||W - 11ᵀ/n||_2 and the spectral gap 1 - β.

One round of mixing shrinks the distance of clients' models to their mean by β or more. For symmetric W, β is the second
largest modulus of an eigenvalue; in general it is the second largest singular value.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, eigsh

from raysim.core import streams
from raysim.core.interfaces import Topology
from raysim.core.plugin import ConfigError

DENSE = 2000
"""Clients up to which β comes from a dense matrix."""


def beta(topology: Topology, clients: int, round: int = 0) -> float:
    """||W - 11ᵀ/n||_2; where W varies, of the product over one period that begins in ``round``.

    Args:
        topology: whose matrices.
        clients: n.
        round: the round to begin with.

    Returns:
        Between 0 (one period of mixing is exact averaging) and 1 (no consensus); per period, not per round.
    """
    topology.fit(clients)
    matrices = [topology.mixing(clients, round + k) for k in range(period(topology, clients))]
    return min(1.0, _dense(matrices, clients) if clients <= DENSE else _iterated(matrices, clients))


def spectral_gap(topology: Topology, clients: int, round: int = 0) -> float:
    """1 - β; where W varies, over one period."""
    return 1 - beta(topology, clients, round)


def period(topology: Topology, clients: int) -> int:
    """Rounds after which the matrices repeat: 1 where they do not vary, else the topology's ``period(clients)``."""
    if not topology.varies:
        return 1
    own = getattr(topology, "period", None)
    if own is None:
        raise ConfigError(
            f"{type(topology).__name__} varies from round to round but has no method period(clients), the number of "
            "rounds after which it repeats; without it there is no spectral gap."
        )
    return own(clients)


def _dense(matrices: list[csr_array], n: int) -> float:
    product = np.eye(n)
    for W in matrices:
        product = W @ product
    return float(np.linalg.norm(product - 1 / n, 2))


def _iterated(matrices: list[csr_array], n: int) -> float:
    """The largest singular value of W - 11ᵀ/n by Lanczos iteration on AᵀA, from a fixed start."""

    def gram(x: np.ndarray) -> np.ndarray:
        x = x.ravel() - x.mean()
        for W in matrices:
            x = W @ x
        for W in reversed(matrices):
            x = W.T @ x
        return x - x.mean()

    start = streams.normal(streams.key(0, "spectrum"), n).numpy().astype(np.float64)
    left = np.linalg.norm(gram(start)) / np.linalg.norm(start)
    if left < 1e-13:  # A is 0 but for rounding: nothing to iterate on
        return 0.0
    operator = LinearOperator((n, n), matvec=gram, dtype=np.float64)  # type: ignore[call-arg]
    value = eigsh(operator, k=1, v0=start, ncv=min(n, 80), return_eigenvectors=False)
    return math.sqrt(max(float(value[0]), 0.0))
