"""Exact diffusion, also known as D²: gossip whose bias on unequal data is corrected by the step before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Rule, Topology
from raysim.core.local import Local
from raysim.core.plugin import ConfigError
from raysim.core.server import Server
from raysim.rules.own import begin, mean_model, own, start_from
from raysim.rules.plain import one_gradient

DENSE = 2000  # clients up to which eigenvalues are computed: a few seconds


@dataclass(frozen=True)
class ExactDiffusion(Rule):
    """Exact diffusion (D²): gossip that adds each client's last correction, and so reaches the common minimum.

    x_i ← Σ_j w_ij φ_j with φ_i = 2 x_i - x_i' - η (g_i - g_i'), where primes are values of the round before; in the
    first round φ_i = x_i - η g_i. Computed as adapt, correct, combine: ψ_i = x_i - η g_i;  φ_i = ψ_i + x_i - ψ_i'.
    Every gradient keeps the step size of its own round. With full gradients and a constant step size all clients
    reach the minimum of the mean loss, with half the messages of gradient tracking.

    It needs a symmetric W that stays, with smallest eigenvalue above -1/3; ``lazy`` mixing has none below 0. (Along an
    eigenvector of value λ the clients' differences grow by up to |λ ± √(λ² - λ)| a round.)

    Paper: Yuan, Ying, Zhao, Sayed, Exact Diffusion for Distributed Optimization and Learning, 2019,
    https://arxiv.org/abs/1702.05122; Tang, Lian, Yan, Zhang, Liu, D²: Decentralized Training over Decentralized Data,
    2018, https://arxiv.org/abs/1803.07068.

    Args:
        topology: who averages with whom, and with which weights.
        lazy: mix with (I + W) / 2 in place of W.
    """

    own_models: ClassVar[bool] = True
    everyone: ClassVar[bool] = True

    topology: Topology
    lazy: bool = True

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """The topology's say, one gradient a round, and a matrix with which the iteration is stable."""
        self.topology.fit(clients)
        one_gradient(type(self).__name__, local)
        matrix = self.topology.mixing(clients, 0)
        if self.topology.varies or abs(matrix - matrix.T).max() > 1e-9:
            raise ConfigError(
                "ExactDiffusion needs a symmetric mixing matrix, the same in every round, which that of "
                f"{self.topology!r} is not: others can make it diverge. Choose a topology of two-way links (Ring, "
                "Grid, ...), or GradientTracking."
            )
        if self.lazy or clients > DENSE:
            return
        least = np.linalg.eigvalsh(matrix.toarray())[0]
        if least <= -1 / 3 + 1e-9:
            raise ConfigError(
                f"ExactDiffusion diverges where W has an eigenvalue of -1/3 or less; that of {self.topology!r} for "
                f"{clients} clients has {least:.4f}. Use lazy=True, which mixes with (I + W) / 2."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """One gradient; each edge carries one row."""
        begin(clients, server, "adapted")
        clients.run(adapt_and_correct)
        matrix = self.topology.mixing(clients.number, server.round)
        clients.mix("model", stochastic(matrix, 0.5 if self.lazy else 1.0))
        return server.at(mean_model(clients))

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """φ_i."""
        start_from(cohort, server.x_P, "adapted")
        adapt_and_correct(cohort)
        return own(cohort)


def adapt_and_correct(cohort: Cohort) -> None:
    """ψ = x - η g;  x ← ψ + x - ψ of the round before, which in the first round is x itself."""
    x_CP, adapted_CP = own(cohort), own(cohort, "adapted")
    new_CP = cohort.train(x_CP)
    x_CP.sub_(adapted_CP).add_(new_CP)
    adapted_CP.copy_(new_CP)


def stochastic(matrix_NN: csr_array, share: float) -> csr_array:
    """(1 - share) I + share W, rounded to multiples of 2^-24, so that in float32 too its rows sum to exactly 1.

    Every round adds the last correction to the next, so that a weight's rounding error would add up over rounds: with
    thirds of float32 the clients' mean drifts from the optimum by some 1e-7 a round, without end.
    """
    W, every = coo_array(matrix_NN), np.arange(len(matrix_NN.indptr) - 1)
    row, column = (index[W.row != W.col] for index in (W.row, W.col))
    weight = np.round(share * W.data[W.row != W.col] * 2**24) / 2**24
    own = 1 - np.bincount(row, weight, len(every))
    places = np.concatenate([row, every]), np.concatenate([column, every])
    return csr_array((np.concatenate([weight, own]), places), shape=(len(every), len(every)))
