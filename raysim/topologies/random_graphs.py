"""Random graphs, drawn until they are connected."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from raysim.core import streams
from raysim.core.interfaces import Topology
from raysim.core.plugin import ConfigError, Count, CountOrZero
from raysim.topologies.weights import metropolis

if TYPE_CHECKING:
    from networkx import Graph

TRIES = 30
"""Graphs drawn in search of a connected one."""


@dataclass(frozen=True)
class RandomRegular(Topology):
    """A random graph in which every client has ``degree`` neighbours, w = 1 / (degree + 1) each.

    Drawn until it is connected. Such graphs are expanders: β stays near (1 + 2 √(degree - 1)) / (degree + 1) however
    many clients there are (Friedman, A Proof of Alon's Second Eigenvalue Conjecture, 2008,
    https://arxiv.org/abs/cs/0405020).

    Paper: Kim, Vu, Generating Random Regular Graphs, 2003, https://doi.org/10.1145/780542.780576, as networkx has it.

    Args:
        degree: neighbours of each client, fewer than there are clients; clients times degree must be even.
        seed: of the graph, apart from the experiment's.
    """

    degree: Count
    seed: CountOrZero = 0

    def fit(self, clients: int) -> None:
        """Refuse a degree for which there is no connected graph."""
        d = self.degree
        if d >= clients:
            raise ConfigError(
                f"RandomRegular.degree is {d}, but of {clients} clients each has at most {clients - 1} neighbours. "
                f"Use a degree of at most {clients - 1}"
                + (", or Ring for a single client." if clients == 1 else ".")
            )
        if d * clients % 2:
            raise ConfigError(
                f"There is no graph of {clients} clients with {d} neighbours each: clients times degree must be "
                f"even. Use degree {d + 1} or another number of clients."
            )
        if d == 1 and clients > 2:
            raise ConfigError(
                "RandomRegular.degree is 1, which joins clients in separate pairs. Use at least 2 (or better 3)."
            )
        self.mixing(clients, 0)

    def mixing(self, clients: int, round: int) -> csr_array:
        """W, the same in every round."""
        return _regular(self, clients)


@dataclass(frozen=True)
class ErdosRenyi(Topology):
    """A random graph in which any two clients are neighbours with ``probability``, Metropolis weights.

    Drawn until it is connected, which takes a probability above about ln(n) / n.
    w_ij = 1 / max(d_i, d_j) for neighbours, where the degrees count the client itself; w_ii = 1 - Σ_j w_ij.

    Paper: Erdős, Rényi, On Random Graphs I, 1959, and Gilbert, Random Graphs, 1959,
    https://doi.org/10.1214/aoms/1177706098.

    Args:
        probability: of each edge, above 0.
        seed: of the graph, apart from the experiment's.
    """

    probability: Annotated[float, Field(gt=0, le=1)]
    seed: CountOrZero = 0

    def fit(self, clients: int) -> None:
        """Refuse a probability with which no connected graph turns up."""
        self.mixing(clients, 0)

    def mixing(self, clients: int, round: int) -> csr_array:
        """W, the same in every round."""
        return _erdos_renyi(self, clients)


@functools.lru_cache(maxsize=8)
def _regular(topology: RandomRegular, clients: int) -> csr_array:
    import networkx as nx

    draw = lambda seed: nx.random_regular_graph(topology.degree, clients, seed)
    return _connected(
        topology, clients, draw, "Use a degree of at least 3, another seed, or Ring for degree 2."
    )


@functools.lru_cache(maxsize=8)
def _erdos_renyi(topology: ErdosRenyi, clients: int) -> csr_array:
    import networkx as nx

    draw = lambda seed: nx.fast_gnp_random_graph(clients, topology.probability, seed)
    enough = min(1.0, 2 * np.log(max(clients, 2)) / clients)
    return _connected(topology, clients, draw, f"Use a larger probability, such as {enough:.2g}.")


def _connected(
    topology: RandomRegular | ErdosRenyi, clients: int, draw: Callable[[int], Graph], advice: str
) -> csr_array:
    """Metropolis weights of the first connected graph of ``draw(seed)`` for a fixed row of seeds."""
    for attempt in range(TRIES):
        key = streams.key(topology.seed, "topology", attempt)
        edges = np.array(draw(int(key) & 0x7FFFFFFF).edges, np.int64).reshape(-1, 2)
        matrix = metropolis(clients, edges[:, 0], edges[:, 1])
        if connected_components(matrix, directed=False, return_labels=False) == 1:
            return matrix
    raise ConfigError(f"None of {TRIES} draws of {topology} with {clients} clients is connected. {advice}")
