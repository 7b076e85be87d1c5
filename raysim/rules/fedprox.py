"""FedProx: averaging whose clients are held back to where they started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Optimizer, Rule
from raysim.core.plugin import NonNegative
from raysim.core.server import Server
from raysim.core.terms import proximal


@dataclass(frozen=True)
class FedProx(Rule):
    """FedProx: every client minimises its loss plus a proximal term around the shared model.

    y_i = local training from x on f_i(y) + (μ/2) ||y - x||², that is with gradients ∇f_i(y) + μ (y - x);
    Δ = Σ_i w_i (y_i - x);  x ← server step along -Δ  (no server optimiser: x ← x + Δ).

    The term enters every gradient before momentum, weight decay or Adam's scaling see it. A client's first gradient is
    that of Averaging, so with one local step the two are the same.

    Paper: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, Federated Optimization in Heterogeneous Networks, 2020,
    https://arxiv.org/abs/1812.06127

    Args:
        mu: μ, strength of the proximal term, at least 0 (0: Averaging).
        server: server optimiser on the pseudo-gradient -Δ; None averages plainly.
        weighting: w_i by number of "examples", or "uniform".
    """

    mu: NonNegative
    server: Optimizer | None = None
    weighting: Literal["examples", "uniform"] = "examples"

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down x, up one row per client."""
        uniform = self.weighting == "uniform"
        delta_P = clients.mean(proximal_update, server.x_P, self.mu, uniform=uniform)
        return server.step(self.server, -delta_P)

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """The trained y_i."""
        return cohort.train(server.x_P, term=proximal(self.mu, server.x_P))


def proximal_update(cohort: Cohort, x_P: Tensor, mu: float) -> Tensor:
    """What each client's training changed, [C, P]."""
    return cohort.update(x_P, term=proximal(mu, x_P))
