"""Consensus: how far the clients' own models are from one another after a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Probe, Rule
from raysim.core.server import Server
from raysim.probes.replay import looked, meaningful, ratio, squared_distance, squared_norm


@dataclass(frozen=True)
class Consensus(Probe):
    """Consensus distance after the round: consensus = (1/n) Σ_i ||x_i - x̄||², x̄ = (1/n) Σ_i x_i.

    x_i is the model that client i keeps; the sums are over the round's cohort. 0 for rules with one shared model.

    Metrics: ``consensus``; ``consensus_relative`` = consensus / ||x̄||², left out where x̄ = 0.

    Paper: Kong, Lin, Koloskova, Jaggi, Stich, Consensus Control for Decentralized Deep Learning, 2021,
    https://proceedings.mlr.press/v139/kong21a.html.
    """

    after: ClassVar[bool] = True

    def measure(self, clients: Clients, rule: Rule, server: Server) -> dict[str, float]:
        """Two looks: the mean of the clients' models, then the distances from it."""
        if not rule.own_models:
            return {"consensus": 0.0, "consensus_relative": 0.0}
        mean_P = looked(clients, _model, server.x_P)
        distance = looked(clients, _distance, server.x_P, mean_P).item()
        relative = ratio(distance, squared_norm(mean_P))
        return meaningful({"consensus": distance, "consensus_relative": relative})


def _model(cohort: Cohort, x_P: Tensor) -> Tensor:
    return cohort.state.rows("model", x_P)


def _distance(cohort: Cohort, x_P: Tensor, mean_P: Tensor) -> Tensor:
    return squared_distance(_model(cohort, x_P), mean_P).unsqueeze(1)
