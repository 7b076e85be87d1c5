"""FedDyn: a regulariser that moves with the clients, until their optima and the server's agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Rule
from raysim.core.plugin import Positive
from raysim.core.server import Server
from raysim.core.terms import Term


@dataclass(frozen=True)
class FedDyn(Rule):
    """Dynamic regularisation: every client keeps a dual h_i, the sum of all it ever moved.

    From the broadcast model z: y_i ≈ argmin F_i(y) + α_i <y, h_i> + (α_i/2) ||y - z||² by local training from z;
    h_i ← h_i + y_i - z;  x ← mean of y_i over the cohort;  z ← x + mean of h_i over all clients. At the start h_i = 0
    and z = x.

    x is the model that is evaluated, z the one that clients start from. Where local training reaches its optimum,
    h_i = -∇F_i(y_i) / α_i; the paper writes h_i for what is -α_i h_i here. At rest all y_i = x, so that
    Σ_i ∇F_i(x) / α_i = 0: the optimum of the mean client with α_i = α, that of the mean example with α_i = α over the
    client's relative number of examples. Both means of a round are over clients, all alike.

    This is the form of the authors' code, alpemreacar/FedDyn, without its gradient clipping (at norm 10).

    Paper: Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, Federated Learning Based on Dynamic
    Regularization, 2021, https://arxiv.org/abs/2111.04263.

    Args:
        alpha: strength of the regulariser (0.01 in the authors' CIFAR-10 example).
        weighting: "examples": α_i = alpha over the client's number of examples relative to the mean of all clients,
            as in the authors' code; or "uniform": α_i = alpha.
    """

    alpha: Positive = 0.01
    weighting: Literal["examples", "uniform"] = "examples"

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down z, up one row per client; the server follows the mean of all h_i by what moved."""
        z_P = cloud(server)
        dual_P = server.state.get("dual", torch.zeros_like(z_P))
        change_P = clients.mean(dynamic_update, z_P, self, uniform=True)
        dual_P = dual_P + clients.number / clients.total * change_P
        average_P = z_P + change_P
        return server.at(average_P, cloud=average_P + dual_P, dual=dual_P)

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """What local training makes of z."""
        z_P = cloud(server)
        return cohort.train(z_P, term=self.term(cohort, z_P))

    def term(self, cohort: Cohort, z_P: Tensor) -> Term:
        """α_i <y, h_i> + (α_i/2) ||y - z||² up to a constant: (α_i/2) ||y||² + α_i <y, h_i - z>."""
        alpha: float | Tensor = self.alpha
        if self.weighting == "examples":
            size_C1 = torch.from_numpy(cohort.relative_size_C).to(z_P).unsqueeze(1)
            alpha = self.alpha / size_C1
        return Term(alpha, (duals(cohort, z_P) - z_P).mul_(alpha))


def cloud(server: Server) -> Tensor:
    """The model that the server broadcasts, z."""
    return server.state.get("cloud", server.x_P)


def duals(cohort: Cohort, z_P: Tensor) -> Tensor:
    """h_i of each client, [C, P]."""
    return cohort.state.rows("dual", torch.zeros_like(z_P))


def dynamic_update(cohort: Cohort, z_P: Tensor, rule: FedDyn) -> Tensor:
    """What each client's training changed, [C, P], which its dual remembers."""
    change_CP = cohort.update(z_P, term=rule.term(cohort, z_P))
    dual_CP = duals(cohort, z_P)
    cohort.on_delivery(
        lambda parts: dual_CP.add_(parts[0])
    )  # what the server hears of, so that both sides agree
    return change_CP
