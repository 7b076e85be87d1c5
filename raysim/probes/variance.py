"""Gradient variance: how much the clients' gradients disagree at the shared model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Probe, Rule
from raysim.core.server import Server
from raysim.probes.replay import looked, meaningful, ratio, squared_distance, squared_norm

CANCELLED = 1e-2
"""Share of mean ||∇f_i||² below which the variance is measured directly: the difference lost two digits of seven."""


@dataclass(frozen=True)
class GradientVariance(Probe):
    """Dissimilarity of the clients' gradients: V(x) = (1/n) Σ_i ||∇f_i(x) - ∇f(x)||², and their alignment.

    x is the server's model before the round, ∇f_i the gradient of client i's full local loss, ∇f = (1/n) Σ_i ∇f_i over
    the round's cohort. Alignment is the mean cosine of the angle between two clients' gradients,
    (||Σ_i u_i||² - m) / (m (m - 1)) over the m clients with a gradient u_i ||∇f_i|| = ∇f_i other than 0.

    Metrics: ``gradient_variance`` = V; ``gradient_variance_relative`` = V / ||∇f||², left out where ∇f = 0;
    ``gradient_cosine``, left out where m < 2.

    Paper: Koloskova, Loizou, Boreiri, Jaggi, Stich, A Unified Theory of Decentralized SGD with Changing Topology and
    Local Updates, 2020, https://arxiv.org/abs/2003.10422 (V, the heterogeneity that their rates bound); Yin, Pananjady,
    Lam, Papailiopoulos, Ramchandran, Bartlett, Gradient Diversity: a Key Ingredient for Scalable Distributed Learning,
    2018, https://arxiv.org/abs/1706.05699 (sums of squares against the square of the sum).
    """

    def measure(self, clients: Clients, rule: Rule, server: Server) -> dict[str, float]:
        """One look; V = (1/n) Σ ||∇f_i||² - ||∇f||², and a second look where that difference cancels."""
        grad_P, unit_P, square, share = looked(clients, _sums, server.x_P)
        norm = squared_norm(grad_P)
        variance = square.item() - norm
        if variance < CANCELLED * square.item():
            variance = looked(clients, _distance, server.x_P, grad_P).item()
        return meaningful(
            {
                "gradient_variance": variance,
                "gradient_variance_relative": ratio(variance, norm),
                "gradient_cosine": _cosine(clients.number, unit_P, share.item()),
            }
        )


def _cosine(number: int, unit_P: Tensor, share: float) -> float:
    """Mean pairwise cosine from the mean of the unit gradients and the share of clients that have one."""
    some = round(number * share) if math.isfinite(share) else 0
    if some < 2:
        return math.nan
    return min(1.0, (number**2 * squared_norm(unit_P) - some) / (some * (some - 1)))


def _sums(cohort: Cohort, x_P: Tensor) -> tuple[Tensor, ...]:
    grad_CP = cohort.gradient(x_P)
    norm_C1 = grad_CP.norm(dim=1, keepdim=True)
    some_C1 = (norm_C1 != 0).to(norm_C1)
    return grad_CP, grad_CP / (norm_C1 + (1 - some_C1)), norm_C1.square(), some_C1


def _distance(cohort: Cohort, x_P: Tensor, mean_P: Tensor) -> Tensor:
    return squared_distance(cohort.gradient(x_P), mean_P).unsqueeze(1)
