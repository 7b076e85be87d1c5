"""Examples dealt like cards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim.core.interfaces import Dataset, Partition
from raysim.core.plugin import Count
from raysim.data.partitions.dealing import index_vectors, require_examples, shuffled


@dataclass(frozen=True)
class IID(Partition):
    """Every client gets an equal share of the examples, at random; sizes differ by at most one.

    Args:
        clients: number of clients.

    Paper: none. Sampling without replacement.
    """

    clients: Count

    def split(self, data: Dataset, seed: int) -> list[np.ndarray]:
        """Index vectors, one per client."""
        require_examples(data, self.clients, "IID", f"one for each of {self.clients} clients")
        owner = np.empty(len(data.y_train), np.int64)
        owner[shuffled(len(owner), seed, "iid")] = np.arange(len(owner)) % self.clients
        return index_vectors(owner, self.clients)
