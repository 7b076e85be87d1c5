"""Gradient deviation: how far local training takes the clients' gradients from those at the averaged model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Probe, Rule
from raysim.core.plugin import ConfigError
from raysim.core.server import Server
from raysim.probes.replay import looked, meaningful, models, ratio, shipped, squared_distance

if TYPE_CHECKING:
    from pandas import DataFrame

NEAR = 10 * torch.finfo(torch.float32).eps
"""Distance from W̄, relative to ||W̄||, that rounding alone can make: a quotient by it says nothing."""


class SemiLipschitz(NamedTuple):
    """Constants of D² = a Δ + b L.

    Args:
        a: of the drift, the ordinary smoothness.
        b: of the loss, the price of the kinks of ReLU.
        residual: what the fit leaves, as a share of the norm of D² over the rounds.
    """

    a: float
    b: float
    residual: float


@dataclass(frozen=True)
class GradientDeviation(Probe):
    """Gradient deviation right before averaging: D_i = ||∇L_i(W_i) - ∇L_i(W̄)||, deviation = (1/n) Σ_i D_i.

    W_i is client i's model after the local training of the round that ends here, W̄ = (1/n) Σ_i W_i, L_i the full local
    loss, over the round's cohort. The theory bounds D² by a Δ + b L(W̄) for a ReLU network near its initialisation, so
    that deviations die out with the loss; ``fit`` estimates a and b from a run.

    Metrics: ``deviation``; ``deviation_squared`` = (1/n) Σ D_i²; ``deviation_relative`` = deviation /
    ((1/n) Σ ||∇L_i(W̄)||); ``drift`` Δ = (1/n) Σ ||W_i - W̄||²; ``lipschitz`` = mean of D_i / ||W_i - W̄|| over the
    clients whose model is not W̄ up to rounding; ``deviation_loss`` L(W̄) = (1/n) Σ L_i(W̄). A quotient by 0 is left out.

    Paper: Deng, Kamani, Mahdavi, Local SGD Optimizes Overparameterized Neural Networks in Polynomial Time, 2022,
    https://arxiv.org/abs/2107.10868 (the deviation; the form of the bound is quoted from memory, its constants depend
    on width and depth).
    """

    def measure(self, clients: Clients, rule: Rule, server: Server) -> dict[str, float]:
        """Two looks: the mean model, then every client's gradients; local training is replayed in each."""
        replay = shipped(rule, server)
        mean_P = looked(clients, models, *replay)
        means = looked(clients, _deviations, mean_P, *replay).tolist()
        deviation, squared, norm, drift, lipschitz, moved, loss = means
        return meaningful(
            {
                "deviation": deviation,
                "deviation_squared": squared,
                "deviation_relative": ratio(deviation, norm),
                "drift": drift,
                "lipschitz": ratio(lipschitz, moved),
                "deviation_loss": loss,
            }
        )

    @staticmethod
    def fit(metrics: DataFrame) -> SemiLipschitz:
        """Fit D² = a Δ + b L with a, b ≥ 0 over a run's rounds, by non-negative least squares.

        D² is the clients' mean of squares: the bound holds for each client, hence for the mean. All rounds weigh alike,
        so the first ones, where D is largest, decide; pass a part of the rounds to look elsewhere.

        Args:
            metrics: ``Result.metrics`` of a run with this probe; rounds without its numbers are skipped.

        Raises:
            ConfigError: fewer than two rounds have them.
        """
        columns = ["drift", "deviation_loss", "deviation_squared"]
        table = metrics.reindex(columns=columns).to_numpy(np.float64)
        table = table[np.isfinite(table).all(1)]
        if len(table) < 2:
            raise ConfigError(
                f"Fitting two constants needs at least 2 rounds with {', '.join(columns)}, got {len(table)}. "
                "Pass the metrics of a run with probes=(GradientDeviation(),)."
            )
        size = np.abs(table).max(0)
        size[size == 0] = (
            1  # columns of the same size: the drift may be millions of times smaller than the loss
        )
        scaled = table / size
        (a, b), left = nnls(scaled[:, :2], scaled[:, 2])
        a, b = size[2] * a / size[0], size[2] * b / size[1]
        return SemiLipschitz(float(a), float(b), float(left / (np.linalg.norm(scaled[:, 2]) or 1.0)))


def _deviations(cohort: Cohort, mean_P: Tensor, *replay: Any) -> Tensor:
    """D, D², ||∇L(W̄)||, ||W - W̄||², D / ||W - W̄||, whether W is apart from W̄, L(W̄): [C, 7]."""
    model_CP = models(cohort, *replay)
    distance_C = squared_distance(model_CP, mean_P)
    grad_CP, mean_grad_CP = cohort.gradient(model_CP), cohort.gradient(mean_P)
    deviation_C = grad_CP.sub_(mean_grad_CP).norm(dim=1)
    apart_C = (distance_C.sqrt() > NEAR * mean_P.norm()).to(distance_C)
    lipschitz_C = apart_C * deviation_C / (distance_C.sqrt() + (1 - apart_C))
    return torch.stack(
        [
            deviation_C,
            deviation_C.square(),
            mean_grad_CP.norm(dim=1),
            distance_C,
            lipschitz_C,
            apart_C,
            cohort.loss(mean_P),
        ],
        dim=1,
    )
