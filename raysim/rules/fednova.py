"""FedNova: averaging that does not care how many steps each client took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Optimizer, Rule
from raysim.core.local import Local
from raysim.core.plugin import ConfigError, NonNegative, at_round
from raysim.core.server import Server
from raysim.core.terms import Term, proximal


@dataclass(frozen=True)
class FedNova(Rule):
    """Normalised averaging: what a client changed counts per unit of work, not per round.

    d_i = (x - y_i) / a_i;  τ_eff = Σ_i p_i a_i (with mu > 0: Σ_i p_i times the client's steps);
    x ← x - τ_eff Σ_i p_i d_i, or a server step along τ_eff Σ_i p_i d_i.

    a_i is the sum of the weights that the local gradients g_k have in (x - y_i) / η: put every g_k = 1. With the
    momentum of torch.optim.SGD (v ← ρ v + g, no dampening, v = 0 at the start of the round) and the proximal term
    (mu/2) ||y - x||² a step is then c ← ρ c + 1 - η mu a;  a ← a + c. So plain SGD has a_i = steps, and the two
    special cases are those of the authors' code: momentum (counter ← ρ counter + 1; a += counter) and proximal term
    (a ← a (1 - η mu) + 1). With both, the code adds its two cases up; here a_i stays the sum of the weights.
    Nesterov's step is a ← a + 1 - η mu a + ρ c, which the code counts like heavy-ball momentum. Weight decay counts
    as part of the gradient, in the code as here.

    Without it, clients with more steps pull the average towards their own optimum (objective inconsistency).

    Paper: Wang, Liu, Liang, Joshi, Poor, Tackling the Objective Inconsistency Problem in Heterogeneous Federated
    Optimization, 2020, https://arxiv.org/abs/2007.07481; the updates as in its authors' code, JYWa/FedNova.

    Args:
        mu: strength of a proximal term (mu/2) ||y - x||² in the clients' objective; times their step size below 1.
        server: server optimiser on the pseudo-gradient τ_eff Σ_i p_i d_i; None takes it plainly.
        weighting: p_i by number of "examples", or "uniform".
    """

    mu: NonNegative = 0.0
    server: Optimizer | None = None
    weighting: Literal["examples", "uniform"] = "examples"

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """Only SGD, whose a_i is known, from a velocity of zero, and weights of gradients that are not negative."""
        momentum = sgd_momentum(local.optimizer)
        if momentum is None:
            raise ConfigError(
                f"FedNova knows how much work a step is (a_i) for SGD alone, but Local.optimizer is "
                f"{type(local.optimizer).__name__}. Use SGD(lr, momentum), or Averaging for other optimisers."
            )
        if momentum and local.keep_state:
            raise ConfigError(
                "FedNova's a_i holds for a momentum that starts at zero in every round, but Local.keep_state is true. "
                "Set keep_state=False, or momentum=0."
            )
        rate = at_round(local.optimizer.lr, 0) * self.mu
        if rate >= 1:
            raise ConfigError(
                f"FedNova.mu times the clients' step size must be below 1, got {rate:g}: a step would overshoot the "
                f"server's model. Use mu below {self.mu / rate:g}, or a smaller step size."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down x; up one row and one number (a_i, or steps) per client."""
        uniform = self.weighting == "uniform"
        direction_P, tau = clients.mean(normalised_update, server.x_P, self.mu, uniform=uniform)
        return server.step(self.server, -tau * direction_P)

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """What local training makes of x, the proximal term included."""
        return cohort.train(server.x_P, term=_term(self.mu, server.x_P))


def normalised_update(cohort: Cohort, x_P: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    """-d_i, [C, P], and what the client adds to τ_eff, [C, 1]."""
    change_CP = cohort.update(x_P, term=_term(mu, x_P))
    steps_C, optimizer = cohort.steps_C, cohort.local.optimizer
    rho, nesterov = sgd_momentum(optimizer) or 0.0, getattr(optimizer, "nesterov", False)
    a_C = work(int(steps_C.max()), rho, nesterov, cohort.lr * mu)[steps_C]
    column = lambda value_C: torch.from_numpy(value_C.astype(np.float32)).to(change_CP.device).unsqueeze(1)
    change_CP.div_(column(np.where(steps_C > 0, a_C, 1)))  # no steps: no change to divide
    return change_CP, column(steps_C if mu else a_C)


def work(steps: int, rho: float = 0.0, nesterov: bool = False, eta_mu: float = 0.0) -> np.ndarray:
    """a_i after 0, 1, ..., ``steps`` local steps, [steps + 1]: -1/η times where gradients of 1 lead from 0."""
    a, counter, found = 0.0, 0.0, [0.0]
    for _ in range(steps):
        gradient = 1 - eta_mu * a
        counter = rho * counter + gradient
        a += gradient + rho * counter if nesterov else counter
        found.append(a)
    return np.array(found)


def sgd_momentum(optimizer: Optimizer) -> float | None:
    """The momentum of an optimiser that steps like SGD, with or without Nesterov's form; None for any other.

    Rules know no optimiser by name, so it is tried: three gradients in one dimension.
    """
    rho = getattr(optimizer, "momentum", None)
    if not isinstance(rho, float) or type(optimizer).step is not Optimizer.step:
        return None
    nesterov, decay = getattr(optimizer, "nesterov", False), getattr(optimizer, "weight_decay", 0.0)
    x_11 = torch.zeros(1, 1)
    state, x, v = optimizer.init(x_11), 0.0, 0.0
    for g in (1.0, -2.0, 0.5):
        optimizer.update(x_11, torch.full((1, 1), g), state, 0.5)
        g += decay * x
        v = rho * v + g
        x -= 0.5 * (g + rho * v if nesterov else v)
    return rho if abs(x_11.item() - x) <= 1e-5 * (1 + abs(x)) else None


def _term(mu: float, x_P: Tensor) -> Term | None:
    return proximal(mu, x_P) if mu else None
