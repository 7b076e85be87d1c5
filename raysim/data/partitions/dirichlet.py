"""Label skew from a Dirichlet distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from raysim.core import streams
from raysim.core.interfaces import Dataset, Partition
from raysim.core.plugin import Count, CountOrZero, Positive
from raysim.data.partitions.dealing import by_label, class_labels, index_vectors, require_examples, shuffled


@dataclass(frozen=True)
class Dirichlet(Partition):
    """Each class is divided among the clients in proportions drawn from a symmetric Dirichlet distribution.

    p_k ~ Dir(alpha, ..., alpha) over the clients for every class k; client i gets a share p_ki of that class.
    Large alpha is IID, small alpha gives each class to few clients. Clients left with fewer than
    ``min_examples`` are filled up with examples, taken at random, of the largest clients, which are cut down
    to a common level.

    Args:
        clients: number of clients.
        alpha: concentration, above 0: 100 is nearly IID, 0.1 strongly skewed.
        min_examples: what every client has at least; 0 permits empty clients.

    Paper: Yurochkin, Agarwal, Ghosh, Greenewald, Hoang, Khazaeni, Bayesian Nonparametric Federated Learning
    of Neural Networks, 2019, https://arxiv.org/abs/1905.12022; in Hsu, Qi, Brown, Measuring the Effects of
    Non-Identical Data Distribution for Federated Visual Classification, 2019,
    https://arxiv.org/abs/1909.06335, the proportions are drawn per client instead, over the classes
    """

    clients: Count
    alpha: Positive
    min_examples: CountOrZero = 1

    def split(self, data: Dataset, seed: int) -> list[np.ndarray]:
        """Index vectors, one per client."""
        label = class_labels(data, "Dirichlet")
        why = f"{self.min_examples} for each of {self.clients} clients; min_examples=0 permits empty ones"
        require_examples(data, self.clients * self.min_examples, "Dirichlet", why)
        owner = np.empty(len(label), np.int64)
        order = by_label(label, seed, "dirichlet")
        classes, first = np.unique(label[order], return_index=True)
        for k, members in zip(classes, np.split(order, first[1:]), strict=True):
            owner[members] = np.repeat(np.arange(self.clients), self._sizes(int(k), len(members), seed))
        return index_vectors(_filled_up(owner, self.clients, self.min_examples, seed), self.clients)

    def _sizes(self, label: int, examples: int, seed: int) -> np.ndarray:
        """How many of a class's examples each client gets, [clients]; bounds between clients are rounded."""
        key = streams.key(seed, "partition", "proportions", label)
        # Gamma variates over their sum are Dirichlet. Logarithms, since for small alpha all may underflow.
        proportion = torch.softmax(streams.log_gamma_variate(key, self.alpha, self.clients), 0).numpy()
        bound = np.rint(examples * np.minimum(np.cumsum(proportion), 1)).astype(np.int64)
        bound[-1] = examples
        return np.diff(bound, prepend=0)


def _filled_up(owner: np.ndarray, clients: int, least: int, seed: int) -> np.ndarray:
    """The same after the largest clients have given to those below ``least``, [n]."""
    size = np.bincount(owner, minlength=clients)
    wanted = np.maximum(least - size, 0)
    given = _given(size, int(wanted.sum()))
    # Examples client by client, at random within a client; the last of each giver's change hands.
    order = by_label(owner, seed, "given examples")
    place_from_end = np.cumsum(size)[owner[order]] - np.arange(len(order))
    moving = order[place_from_end <= given[owner[order]]]
    moving = moving[shuffled(len(moving), seed, "receivers")]
    owner = owner.copy()
    owner[moving] = np.repeat(np.arange(clients), wanted)
    return owner


def _given(size: np.ndarray, number: int) -> np.ndarray:
    """How many each client gives: ``number`` in all, the largest coming down to a common level."""
    low, high = 0, int(size.max())
    while low < high:  # highest level that frees enough
        level = (low + high + 1) // 2
        if np.maximum(size - level, 0).sum() >= number:
            low = level
        else:
            high = level - 1
    given = np.maximum(size - low, 0)
    given[np.flatnonzero(given)[: int(given.sum()) - number]] -= 1
    return given
