"""Few clients with much, many with little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim.core.interfaces import Dataset, Partition
from raysim.core.plugin import Count, NonNegative
from raysim.data.apportion import apportion
from raysim.data.partitions.dealing import index_vectors, require_examples, shuffled


@dataclass(frozen=True)
class Sizes(Partition):
    """IID labels, but client i holds a share of the examples proportional to (i + 1)^-exponent.

    Every client first gets one example; the rest follows the power law. Client 0 is the largest.

    Args:
        clients: number of clients.
        exponent: 0 for equal sizes, 1 for Zipf's law, larger for more uneven.

    Paper: none. A power law over client sizes.
    """

    clients: Count
    exponent: NonNegative = 1.0

    def split(self, data: Dataset, seed: int) -> list[np.ndarray]:
        """Index vectors, one per client."""
        require_examples(data, self.clients, "Sizes", f"one for each of {self.clients} clients")
        weight = np.arange(1, self.clients + 1, dtype=np.float64) ** -self.exponent
        size = 1 + apportion(len(data.y_train) - self.clients, weight)
        owner = np.empty(len(data.y_train), np.int64)
        owner[shuffled(len(owner), seed, "sizes")] = np.repeat(np.arange(self.clients), size)
        return index_vectors(owner, self.clients)
