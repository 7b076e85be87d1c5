"""A few labels for each client."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim.core.interfaces import Dataset, Partition
from raysim.core.plugin import Count
from raysim.data.partitions.dealing import by_label, class_labels, index_vectors, require_examples, shuffled


@dataclass(frozen=True)
class LabelShards(Partition):
    """Sorted by label, cut into clients x labels_per_client equal shards, which are dealt at random.

    A shard that spans two labels gives its client one label more; two shards may have the same label.

    Args:
        clients: number of clients.
        labels_per_client: shards each client gets, 1 or more.

    Paper: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, Communication-Efficient Learning of Deep Networks
    from Decentralized Data, 2017, https://arxiv.org/abs/1602.05629
    """

    clients: Count
    labels_per_client: Count = 2

    def split(self, data: Dataset, seed: int) -> list[np.ndarray]:
        """Index vectors, one per client."""
        label = class_labels(data, "LabelShards")
        shards = self.clients * self.labels_per_client
        require_examples(
            data, shards, "LabelShards", f"one for each of {self.clients} x {self.labels_per_client} shards"
        )
        client_of_shard = shuffled(shards, seed, "deal shards") % self.clients
        owner = np.empty(len(label), np.int64)
        owner[by_label(label, seed, "shards")] = client_of_shard[np.arange(len(label)) * shards // len(label)]
        return index_vectors(owner, self.clients)
