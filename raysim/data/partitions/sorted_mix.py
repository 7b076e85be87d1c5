"""Part dealt, part sorted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim.core.interfaces import Dataset, Partition
from raysim.core.plugin import Count, Probability
from raysim.data.partitions.dealing import by_label, class_labels, index_vectors, require_examples, shuffled


@dataclass(frozen=True)
class SortedMix(Partition):
    """A random fraction of the examples is dealt IID, the rest sorted by label and cut into shards.

    There is one contiguous shard for each client, all equal, so with ``iid_fraction=0`` and as many clients
    as balanced classes every client holds one class. Sizes differ by at most one.

    Args:
        clients: number of clients.
        iid_fraction: share dealt at random, 0 (sorted) to 1 (IID).

    Paper: Dandi, Barba, Jaggi, Implicit Gradient Alignment in Distributed and Federated Learning, 2022,
    https://arxiv.org/abs/2106.13897
    """

    clients: Count
    iid_fraction: Probability = 0.0

    def split(self, data: Dataset, seed: int) -> list[np.ndarray]:
        """Index vectors, one per client."""
        label = class_labels(data, "SortedMix")
        require_examples(data, self.clients, "SortedMix", f"one for each of {self.clients} clients")
        order = shuffled(len(label), seed, "mix")
        dealt = round(self.iid_fraction * len(label))
        rest = order[dealt:]
        rest = rest[by_label(label[rest], seed, "mixed shards")]
        owner = np.empty(len(label), np.int64)
        # The first rest % clients shards are one longer, so dealing begins with the client after them.
        base, longer = divmod(len(rest), self.clients)
        owner[rest] = np.repeat(np.arange(self.clients), base + (np.arange(self.clients) < longer))
        owner[order[:dealt]] = (np.arange(dealt) + longer) % self.clients
        return index_vectors(owner, self.clients)
