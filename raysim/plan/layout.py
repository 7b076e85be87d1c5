"""Who works on what: the same blocks, runs of blocks and nodes of the summation tree as in the runtime."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from raysim.core import cohorts
from raysim.core.cohorts import Shards
from raysim.core.interfaces import Topology
from raysim.core.local import Local
from raysim.core.plugin import ConfigError

LAID_OUT = 1_000_000  # clients that are put in order one by one; the work of more is spread as theirs
ROUNDS = 8  # of a topology that changes
EDGES = 10_000_000  # of a topology that is written out; a larger one is scaled up from one of this size


@dataclass(frozen=True)
class Layout:
    """One round's cohort over actors.

    Args:
        clients: in the round.
        blocks: in the round.
        bounds_A: which clients, in the round's order, each actor works on, [A + 1].
        share_A: of the round's work.
        nodes_A: nodes of the summation tree that each actor sends back.
    """

    clients: int
    blocks: int
    bounds_A: np.ndarray
    share_A: np.ndarray
    nodes_A: np.ndarray

    @property
    def actors(self) -> int:
        """How many there are, with work or without."""
        return len(self.share_A)

    @property
    def busy(self) -> int:
        """Actors that have work."""
        return int((np.diff(self.bounds_A) > 0).sum())


def layout(
    local: Local, sizes: tuple[int, ...], clients: int, block: int, actors: int, neighbours: bool
) -> Layout:
    """Lay out a cohort.

    Args:
        local: local training, which says how much work a client is.
        sizes: examples of clients; for fewer clients evenly spaced ones, for more the same again and again.
        clients: in the round.
        block: clients per block.
        actors: how many.
        neighbours: blocks of consecutive ids, as rules with own models have them.
    """
    bounds, done = _work(local, sizes, clients, block, neighbours)
    at = cuts(done, actors)
    nodes = [nodes_of(a, b, len(bounds) - 1) for a, b in itertools.pairwise(at)]
    return Layout(
        clients, len(bounds) - 1, bounds[at], np.diff(done[at]) / max(done[-1], 1), np.array(nodes, np.int64)
    )


def _work(
    local: Local, sizes: tuple[int, ...], clients: int, block: int, neighbours: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Where blocks begin, and the work before each; as ``cohorts.runs`` counts it."""
    few = min(clients, LAID_OUT)
    shards = Shards(np.concatenate([[0], np.cumsum(_spread(sizes, few))]))
    plan = cohorts.plan(local, shards, np.arange(few), 0, block, neighbours=neighbours)
    counts = plan.weight_C.astype(np.int64)
    batch = counts if local.batch_size is None else np.minimum(counts, local.batch_size)
    done = np.concatenate([[0], np.cumsum(local.steps_of(counts) * batch + 1)])
    if few == clients:
        return plan.bounds, done[plan.bounds]
    blocks = -(-clients // block)
    bounds = np.arange(blocks + 1) * clients // blocks
    return bounds, np.interp(bounds / clients, np.arange(few + 1) / few, done)


def _spread(sizes: tuple[int, ...], number: int) -> np.ndarray:
    known = np.array(sizes, np.int64)
    if number >= len(known):
        return np.resize(known, number)
    return known[np.arange(number) * len(known) // number]


def cuts(done: np.ndarray, actors: int) -> np.ndarray:
    """First block of each actor, and the number of blocks: work as even as blocks allow, as ``cohorts.runs`` cuts."""
    wanted = done[-1] * np.arange(actors + 1) / actors
    after = np.clip(np.searchsorted(done, wanted), 1, len(done) - 1)
    nearer = np.abs(done[after] - wanted) < np.abs(done[after - 1] - wanted)
    return np.where(nearer, after, after - 1)


def nodes_of(begin: int, end: int, leaves: int) -> int:
    """Nodes of the tree over ``leaves`` blocks that blocks begin..end-1 add up to (see ``core/reduction.py``)."""
    number, level = 0, 0
    while begin < end:
        if (1 << level) >= leaves:
            return number + 1  # the root
        last = -(-leaves >> level)
        if end == last:
            end += last & 1  # the last of an odd number has no sibling and moves up alone
        if begin & 1:
            number, begin = number + 1, begin + 1
        if begin < end and end & 1:
            number, end = number + 1, end - 1
        begin, end, level = begin >> 1, end >> 1, level + 1
    return number


@dataclass(frozen=True)
class Halo:
    """What travels when all mix with their neighbours.

    Args:
        rows_A: that each actor receives from others.
        edges_A: entries of the matrix that the coordinator sends to each.
        pairs: of actors, ordered, between which some go.
    """

    rows_A: np.ndarray
    edges_A: np.ndarray
    pairs: float


def halo(topology: Topology, clients: int, bounds_A: np.ndarray, known: int) -> Halo:
    """Count it on the topology itself; one too large to write out is scaled up, which is at most too much.

    Args:
        topology: who talks to whom; of one that changes the mean over some rounds counts.
        clients: how many.
        bounds_A: ids of each actor's clients.
        known: a number of clients that the topology is known to have.
    """
    edges = topology.mixing(known, 0).nnz
    sparse = edges < known * known / 2
    small = EDGES * known // edges if sparse else int(EDGES**0.5)
    written = clients if clients <= small else max(known, small)
    try:
        topology.fit(written)
    except ConfigError:
        written = known
    bounds = np.round(bounds_A * (written / clients)).astype(np.int64)
    counted = [
        _crossing(topology.mixing(written, r), bounds) for r in range(ROUNDS if topology.varies else 1)
    ]
    more = clients / written
    rows_A = np.mean([rows for rows, _, _ in counted], 0) * more
    edges_A = np.mean([edges for _, edges, _ in counted], 0) * (more if sparse else more**2)
    return Halo(rows_A, edges_A, float(np.mean([pairs for _, _, pairs in counted])))


def _crossing(matrix: csr_array, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows that each actor needs of others, its entries, and the pairs of actors between which some rows go."""
    matrix = csr_array(matrix, copy=True)  # a topology may keep its own
    matrix.eliminate_zeros()
    rows, pairs = np.zeros(len(bounds) - 1), 0
    for a, (lo, hi) in enumerate(itertools.pairwise(bounds)):
        near = matrix.indices[matrix.indptr[lo] : matrix.indptr[hi]]
        far = np.unique(near[(near < lo) | (near >= hi)])
        rows[a] = len(far)
        pairs += len(np.unique(np.searchsorted(bounds, far, side="right")))
    return rows, np.diff(matrix.indptr[bounds]), pairs
