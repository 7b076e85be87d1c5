"""A mixing matrix by hand."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse
from scipy.sparse.csgraph import connected_components

from raysim.core.interfaces import Topology
from raysim.core.plugin import ConfigError, shown

TOLERANCE = 1e-6
"""How far a row or column may be from summing to 1."""


@dataclass(frozen=True)
class ExplicitMixing(Topology):
    """A mixing matrix of your own, doubly stochastic and connected: x_i ← Σ_j w_ij x_j.

    No weight is negative, rows and columns sum to 1 (within 1e-6), and there is a path between any two clients.
    The identity is allowed too: nobody talks, which is Local SGD between two averages. Numbers are kept one by one,
    for files; for thousands of clients derive a class from Topology instead.

    Paper: none. You decide.

    Args:
        matrix: W as a list of rows, row i what client i weighs the others with; in Python also an array, dense or
            sparse.
    """

    matrix: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        """Turn arrays and lists into tuples, then check as usual."""
        object.__setattr__(self, "matrix", _rows(self.matrix))
        super().__post_init__()

    def __repr__(self) -> str:
        return f"ExplicitMixing({len(self.matrix)} x {len(self.matrix)})"

    def check(self) -> None:
        """Refuse what is no doubly stochastic, connected matrix."""
        W = np.array(self.matrix)
        if (W < 0).any() or not np.isfinite(W).all():
            i, j = np.argwhere(~(W >= 0) | ~np.isfinite(W))[0]
            raise ConfigError(f"ExplicitMixing.matrix must hold no negative weight, got {W[i, j]:g} in row {i}, "
                              f"column {j}.")  # fmt: skip
        for axis, what in ((1, "row"), (0, "column")):
            total = W.sum(axis)
            worst = int(np.abs(total - 1).argmax())
            if abs(total[worst] - 1) > TOLERANCE:
                raise ConfigError(
                    f"ExplicitMixing.matrix needs rows and columns that sum to 1, but {what} {worst} sums to "
                    f"{total[worst]:.9g}. Metropolis weights, 1 / max(d_i, d_j) with the rest on the diagonal, do."
                )
        parts, part_N = connected_components(csr_array(W), directed=False)
        if parts > 1 and not np.array_equal(W, np.eye(len(W))):
            apart = int((part_N != part_N[0]).argmax())
            raise ConfigError(
                f"ExplicitMixing.matrix is not connected: it has {parts} parts, and nothing passes between clients 0 "
                f"and {apart}, so that they never agree. Join the parts (or use the identity for no mixing at all)."
            )

    def fit(self, clients: int) -> None:
        """Refuse another number of clients than rows."""
        if len(self.matrix) != clients:
            raise ConfigError(
                f"ExplicitMixing.matrix is {len(self.matrix)} x {len(self.matrix)}, but there are {clients} clients. "
                "Give one row and one column per client."
            )

    def mixing(self, clients: int, round: int) -> csr_array:
        """W, the same in every round."""
        self.fit(clients)
        return self._csr

    @functools.cached_property
    def _csr(self) -> csr_array:
        return csr_array(np.array(self.matrix))


def _rows(matrix: Any) -> tuple[tuple[float, ...], ...]:
    """Square rows of numbers from lists, tuples or an array."""
    try:
        W = np.asarray(matrix.toarray() if issparse(matrix) else matrix, np.float64)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise ConfigError(
            f"ExplicitMixing.matrix must be a list of rows of numbers, all of one length, got {shown(matrix)}."
        ) from None
    if W.ndim != 2 or W.shape[0] != W.shape[1] or not W.size:
        raise ConfigError(
            f"ExplicitMixing.matrix must be square, one row and one column per client, got shape {W.shape}."
        )
    return tuple(map(tuple, W.tolist()))
