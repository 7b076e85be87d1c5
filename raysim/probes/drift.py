"""Drift: how far local training takes the clients' models apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Probe, Rule
from raysim.core.server import Server
from raysim.probes.replay import looked, meaningful, models, shipped, squared_distance


@dataclass(frozen=True)
class Drift(Probe):
    """Model drift right before averaging: drift = (1/n) Σ_i ||W_i - W̄||².

    W_i is client i's model after the local training of the round that ends here, W̄ = (1/n) Σ_i W_i, over the
    round's cohort. ``GradientDeviation`` measures the same and more, for two gradients a client.

    Metrics: ``drift``.

    Paper: Deng, Kamani, Mahdavi, Local SGD Optimizes Overparameterized Neural Networks in Polynomial Time, 2022,
    https://arxiv.org/abs/2107.10868.
    """

    def measure(self, clients: Clients, rule: Rule, server: Server) -> dict[str, float]:
        """Two looks: the mean model, then the distances from it; local training is replayed in each."""
        replay = shipped(rule, server)
        mean_P = looked(clients, models, *replay)
        return meaningful({"drift": looked(clients, _distance, mean_P, *replay).item()})


def _distance(cohort: Cohort, mean_P: Tensor, *replay: Any) -> Tensor:
    return squared_distance(models(cohort, *replay), mean_P).unsqueeze(1)
