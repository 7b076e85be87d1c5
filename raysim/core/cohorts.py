"""Who takes part in a round, in which order and in which blocks: a pure function of the experiment, never of actors."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from raysim.core import streams
from raysim.core.local import Local
from raysim.core.plugin import at_round


@dataclass(frozen=True)
class Shards:
    """Each client's examples: training arrays are stored client after client, client c from ``start_N[c]``.

    Args:
        start_N: first example of each client and, at the end, the number of examples: int64 [N + 1].
    """

    start_N: np.ndarray

    @property
    def number(self) -> int:
        """Number of clients."""
        return len(self.start_N) - 1

    @functools.cached_property
    def sizes_N(self) -> np.ndarray:
        """Examples of each client."""
        return np.diff(self.start_N)

    @classmethod
    def of(cls, indices: list[np.ndarray]) -> tuple[Shards, np.ndarray]:
        """Shards of a partition's index vectors, and the order in which to store the examples."""
        start = np.concatenate([[0], np.cumsum([len(i) for i in indices])]).astype(np.int64)
        return cls(start), np.concatenate(indices)


@dataclass(frozen=True)
class Plan:
    """One round's cohort, ordered and cut into blocks; or the part of it that one host works on.

    A block is the unit of training, of the summation tree and of assignment to actors.

    Args:
        round: the round.
        ids_C: clients, those with most local steps first, then most examples, then lowest id.
        weight_C: each client's weight in a weighted mean over the cohort, float64.
        bounds: where blocks begin and end in ``ids_C``.
        first: number of the first block in the whole cohort.
        blocks: blocks of the whole cohort.
        lr: step size of the clients' local training in this round.
    """

    round: int
    ids_C: np.ndarray
    weight_C: np.ndarray
    bounds: np.ndarray
    first: int
    blocks: int
    lr: float = math.nan

    def part(self, begin: int, end: int) -> Plan:
        """The plan of blocks begin..end-1 alone."""
        a, b = self.bounds[begin], self.bounds[end]
        bounds = self.bounds[begin : end + 1] - a
        ids, weight = self.ids_C[a:b], self.weight_C[a:b]
        return Plan(self.round, ids, weight, bounds, self.first + begin, self.blocks, self.lr)


def cohort_ids(seed: int, round: int, number: int, size: int) -> np.ndarray:
    """``size`` of ``number`` clients, uniform without replacement."""
    if size == number:
        return np.arange(number)
    return streams.choice(streams.key(seed, round, "cohort"), number, size).numpy()


def plan(
    local: Local, shards: Shards, ids: np.ndarray, round: int, block: int, neighbours: bool = False
) -> Plan:
    """Order a cohort by work and cut it into blocks of ``block`` clients, even in size to within one.

    With ``neighbours`` blocks hold consecutive ids, ordered by work inside only: for rules whose clients talk to the
    clients beside them.
    """
    sizes = shards.start_N[ids + 1] - shards.start_N[ids]
    blocks = -(-len(ids) // block)
    bounds = np.arange(blocks + 1) * len(ids) // blocks
    first = np.repeat(np.arange(blocks), np.diff(bounds)) if neighbours else np.zeros(len(ids))
    order = np.lexsort((ids, -sizes, -local.steps_of(sizes), first))
    ids, sizes = ids[order], sizes[order]
    lr = at_round(local.optimizer.lr, round)
    return Plan(round, ids, sizes.astype(np.float64), bounds, 0, blocks, lr)


def runs(plan: Plan, local: Local, shards: Shards, actors: int) -> list[tuple[int, int]]:
    """Contiguous runs of blocks for each actor, with work (examples seen) as even as blocks allow."""
    sizes = shards.start_N[plan.ids_C + 1] - shards.start_N[plan.ids_C]
    batch = sizes if local.batch_size is None else np.minimum(sizes, local.batch_size)
    work_C = local.steps_of(sizes) * batch + 1
    done = np.concatenate([[0], np.cumsum(work_C)])[plan.bounds]
    cuts = [int(np.abs(done - done[-1] * a / actors).argmin()) for a in range(actors + 1)]
    return list(itertools.pairwise(cuts))
