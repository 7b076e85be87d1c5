"""SCAFFOLD: averaging whose clients correct every gradient for what sets them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Optimizer, Rule
from raysim.core.local import Local
from raysim.core.plugin import ConfigError, Rate, at_round
from raysim.core.server import Server
from raysim.core.terms import correction


@dataclass(frozen=True)
class Scaffold(Rule):
    """SCAFFOLD: control variates c_i, kept by the clients, and c, their mean, kept by the server; all zero at first.

    y_i = local training from x with gradients g_i(y) - c_i + c;
    option I:  c_i⁺ = ∇f_i(x) over all of the client's data;
    option II: c_i⁺ = c_i - c + (x - y_i) / (K_i η), the mean gradient along the way (K_i steps of size η);
    x ← x + η_g · mean over the cohort S of (y_i - x);  c ← c + (|S|/N) · mean over S of (c_i⁺ - c_i).

    All clients weigh the same, as in the paper, and N counts all clients: those not in S keep their c_i. K_i is each
    client's own number of steps, η the step size of the round.

    Paper: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, SCAFFOLD: Stochastic Controlled Averaging for Federated
    Learning, 2020, https://arxiv.org/abs/1910.06378

    Args:
        option: how clients renew their control variate: "I", a full gradient at x (exact, one more pass over the
            data), or "II", from what training changed (free, for plain SGD only).
        server_lr: η_g, above 0, or a schedule over rounds.
    """

    option: Literal["I", "II"] = "II"
    server_lr: Rate = 1.0

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """Option II reads the mean gradient off the change, which must then be -η times the sum of the gradients."""
        if self.option == "I":
            return
        optimizer = local.optimizer
        if type(optimizer).step is not Optimizer.step or optimizer.init(torch.zeros(1, 1)):
            raise ConfigError(
                "Scaffold.option 'II' takes (x - y) / (K lr) for the mean gradient of K plain SGD steps, which it is "
                f"not for {optimizer}. Use SGD without momentum as Local.optimizer, or option 'I'."
            )
        if local.steps == 0:
            raise ConfigError(
                "Scaffold.option 'II' divides by the number of local steps, got Local.steps=0. Write steps=1 or more, "
                "or use option 'I'."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down x and c, up two rows per client."""
        c_P = control(server)
        delta_P, renewed_P = clients.mean(corrected_update, server.x_P, c_P, self.option, uniform=True)
        x_P = server.x_P + at_round(self.server_lr, server.round) * delta_P
        return server.at(x_P, control=c_P + clients.number / clients.total * renewed_P)

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """The trained y_i."""
        c_P = control(server)
        return cohort.train(server.x_P, term=correction(c_P - own(cohort, c_P)))


def control(server: Server) -> Tensor:
    """The server's c, zero at first."""
    return server.state.get("control", torch.zeros_like(server.x_P))


def own(cohort: Cohort, c_P: Tensor) -> Tensor:
    """The clients' c_i, [C, P], zero at first."""
    return cohort.state.rows("control", torch.zeros_like(c_P))


def corrected_update(cohort: Cohort, x_P: Tensor, c_P: Tensor, option: str) -> tuple[Tensor, Tensor]:
    """What each client's training changed, and what it changed in its c_i, [C, P] both."""
    own_CP = own(cohort, c_P)
    delta_CP = cohort.update(x_P, term=correction(c_P - own_CP))
    if option == "I":
        renewed_CP = cohort.gradient(x_P) - own_CP
    else:  # c_i⁺ - c_i = -c - (y - x) / (K η)
        steps_C1 = torch.from_numpy(cohort.steps_C).to(delta_CP).unsqueeze(1)
        renewed_CP = (delta_CP / (-cohort.lr * steps_C1)).sub_(c_P)
    cohort.on_delivery(
        lambda parts: own_CP.add_(parts[1])
    )  # what the server hears of, so that c stays their mean
    return delta_CP, renewed_CP
