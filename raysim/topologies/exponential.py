"""Exponential graphs: neighbours at distances 1, 2, 4, 8, ..., all at once or one a round."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from scipy.sparse import csr_array

from raysim.core.interfaces import Topology
from raysim.topologies.weights import circulant


@dataclass(frozen=True)
class StaticExponential(Topology):
    """Each client i sends to i + 1, i + 2, i + 4, ...: all powers of two below n, with equal weights.

    w = 1 / (τ + 1) with τ = ⌈log2 n⌉ neighbours and the client itself. Not symmetric, but doubly stochastic.
    β = 1 - 2 / (τ + 1) for even n: the gap shrinks with 1 / log n only.

    Paper: Ying, Yuan, Chen, Hu, Pan, Yin, Exponential Graph is Provably Efficient for Decentralized Deep Training,
    2021, https://arxiv.org/abs/2110.13363; weights as in BlueFog.
    """

    def mixing(self, clients: int, round: int) -> csr_array:
        """W, the same in every round."""
        return _static(clients)


@dataclass(frozen=True)
class OnePeerExponential(Topology):
    """Each client sends to a single other one a round, at distances 1, 2, 4, ... in turn.

    In round k client i sends to i + 2^(k mod τ), τ = ⌈log2 n⌉: W = (I + P) / 2 with that shift P. Where n is a power
    of two the product over τ rounds is exactly the average of all, 11ᵀ/n.

    Paper: Ying, Yuan, Chen, Hu, Pan, Yin, Exponential Graph is Provably Efficient for Decentralized Deep Training,
    2021, https://arxiv.org/abs/2110.13363; first in Assran, Loizou, Ballas, Rabbat, Stochastic Gradient Push for
    Distributed Deep Learning, 2019, https://arxiv.org/abs/1811.10792.
    """

    varies: ClassVar[bool] = True

    def period(self, clients: int) -> int:
        """Rounds after which the matrices repeat."""
        return max(1, _powers(clients))

    def mixing(self, clients: int, round: int) -> csr_array:
        """W of this round."""
        return _one_peer(clients, 2 ** (round % self.period(clients)))


def _powers(clients: int) -> int:
    """⌈log2 n⌉: how many powers of two lie below n."""
    return (clients - 1).bit_length()


@functools.lru_cache(maxsize=8)
def _static(clients: int) -> csr_array:
    return circulant(clients, [0, *(2**j for j in range(_powers(clients)))])


@functools.lru_cache(maxsize=64)
def _one_peer(clients: int, shift: int) -> csr_array:
    return circulant(clients, (0, shift))
