"""MIME-lite: clients step with the server's momentum, which stays as it is while they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.columns import is_zero
from raysim.core.interfaces import Rule
from raysim.core.local import Local
from raysim.core.plugin import BelowOne, ConfigError, Rate, at_round
from raysim.core.server import Server
from raysim.core.terms import Term, correction
from raysim.rules.fednova import sgd_momentum


@dataclass(frozen=True)
class MimeLite(Rule):
    """MIME-lite with momentum SGD as base optimiser: the clients' steps imitate those of one big batch.

    Every local step is y ← y - η ((1-β) g_i(y) + β m) with the server's m, fixed for the round. Then
    x ← x - η_s Σ_i w_i (x - y_i) and m ← (1-β) Σ_i w_i ∇f_i(x) + β m, with full local gradients at the model that the
    round began with. m starts at zero.

    The round is that of fedjax's mime_lite. The momentum is in the paper's form, a running mean; in fedjax it is
    optax's, m ← g + β m with steps along g + β m, which is the same with a step size of (1-β) η.
    Clients need plain SGD, whose step size is η; its weight decay, if any, acts in the clients' steps but not in m.
    MIME's own correction of every gradient, g_i(y) - g_i(x) + Σ_i w_i ∇f_i(x) on the same batch, is left out.

    Paper: Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich, Suresh, Breaking the Centralized Barrier for Cross-Device
    Federated Learning, 2021 (first as: Mime: Mimicking Centralized Stochastic Algorithms in Federated Learning, 2020),
    https://arxiv.org/abs/2008.03606.

    Args:
        momentum: β, share of m kept from round to round, in [0, 1).
        lr: η_s, the server's step size, above 0, or a schedule over rounds.
        weighting: w_i by number of "examples" (as in fedjax), or "uniform".
    """

    momentum: BelowOne = 0.9
    lr: Rate = 1.0
    weighting: Literal["examples", "uniform"] = "examples"

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """Only plain SGD: the clients' momentum is the server's."""
        if sgd_momentum(local.optimizer) != 0:
            raise ConfigError(
                f"MimeLite's clients step with the server's momentum on plain SGD, but Local.optimizer is "
                f"{local.optimizer}. Use SGD(lr) without momentum there, and MimeLite.momentum for the momentum."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down x and m, up two rows per client."""
        beta, m_P = self.momentum, frozen(server)
        uniform = self.weighting == "uniform"
        change_P, gradient_P = clients.mean(mimic, server.x_P, m_P, beta, uniform=uniform)
        x_P = server.x_P + at_round(self.lr, server.round) * change_P
        return server.at(x_P, momentum=(1 - beta) * gradient_P + beta * m_P)

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """What the clients' steps with the frozen momentum make of x."""
        beta = self.momentum
        return cohort.train(server.x_P, term=_term(frozen(server), beta), lr=(1 - beta) * cohort.lr)


def frozen(server: Server) -> Tensor:
    """m, as it is during this round."""
    return server.state.get("momentum", torch.zeros_like(server.x_P))


def mimic(cohort: Cohort, x_P: Tensor, m_P: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """What each client's training changed and its full gradient at x, both [C, P]."""
    gradient_CP = cohort.gradient(x_P)
    return cohort.update(x_P, term=_term(m_P, beta), lr=(1 - beta) * cohort.lr), gradient_CP


def _term(m_P: Tensor, beta: float) -> Term | None:
    """(1-β) g + β m = (1-β) (g + β/(1-β) m): a constant beside the gradient, and a shorter step."""
    return correction(m_P * (beta / (1 - beta))) if not is_zero(beta) else None
