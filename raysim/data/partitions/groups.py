"""The clients that the data came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim.core.interfaces import Dataset, Partition
from raysim.core.plugin import ConfigError, Count
from raysim.data.partitions.dealing import index_vectors


@dataclass(frozen=True)
class ByGroup(Partition):
    """The data's natural owners (speakers, writers, synthetic clients) are the clients.

    Clients come in the order of their owners' ids.

    Args:
        clients: keep this many owners, those with the most examples (the first of equals), and leave the
            others' examples out; None keeps all.

    Paper: none. The data decide.
    """

    clients: Count | None = None

    def split(self, data: Dataset, seed: int) -> list[np.ndarray]:
        """Index vectors, one per owner."""
        if data.groups is None:
            raise ConfigError(
                "ByGroup needs data with natural owners (Text, Quadratic, Logistic, or Arrays with "
                "groups=...), but this data set names none. Use IID, Dirichlet or another partition."
            )
        _, owner, size = np.unique(data.groups, return_inverse=True, return_counts=True)
        clients = self.clients or len(size)
        if clients > len(size):
            raise ConfigError(
                f"ByGroup.clients is {clients}, but the data have {len(size)} owners. Ask for no more."
            )
        kept = np.sort(np.argsort(-size, kind="stable")[:clients])
        client = np.full(len(size), -1)
        client[kept] = np.arange(clients)
        return index_vectors(client[owner], clients)
