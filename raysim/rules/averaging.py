"""Averaging: Local SGD, FedAvg and, with a server optimiser, FedAvgM, FedOpt and DiLoCo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Optimizer, Rule
from raysim.core.server import Server


@dataclass(frozen=True)
class Averaging(Rule):
    """Local SGD / FedAvg: every client trains from the shared model, the server averages what they changed.

    y_i = local training from x;  Δ = Σ_i w_i (y_i - x);  x ← server step along -Δ  (no server optimiser: x ← x + Δ).

    With ``SGD(momentum)`` as server optimiser it is FedAvgM (Hsu, Qi, Brown 2019) and, Nesterov, with AdamW clients,
    DiLoCo (Douillard et al. 2023); with ``Adam``, ``Yogi`` or ``Adagrad`` it is FedOpt (Reddi et al. 2021). With
    ``steps=1`` it is parallel mini-batch SGD.

    Paper: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, Communication-Efficient Learning of Deep Networks from
    Decentralized Data, 2017, https://arxiv.org/abs/1602.05629; Stich, Local SGD Converges Fast and Communicates
    Little, 2019, https://arxiv.org/abs/1805.09767.

    Args:
        server: server optimiser on the pseudo-gradient -Δ; None averages plainly.
        weighting: w_i by number of "examples", or "uniform".
    """

    server: Optimizer | None = None
    weighting: Literal["examples", "uniform"] = "examples"

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down x, up one row per client."""
        delta_P = clients.mean(local_update, server.x_P, uniform=self.weighting == "uniform")
        return server.step(self.server, -delta_P)


def local_update(cohort: Cohort, x_P: Tensor) -> Tensor:
    """What each client's training changed, [C, P]."""
    return cohort.update(x_P)
