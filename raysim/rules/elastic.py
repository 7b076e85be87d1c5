"""Elastic averaging: workers with models of their own, tied by springs to a centre (EASGD, EAMSGD); and DOWNPOUR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Rule
from raysim.core.local import Local
from raysim.core.plugin import BelowOne, ConfigError
from raysim.core.server import Server

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class EASGD(Rule):
    """Elastic averaging SGD, synchronous: a round of local steps, then workers and centre move towards each other.

    y_i = local training from worker i's own x_i;  x_i ← y_i - α (y_i - z);  z ← z + β (mean_i y_i - z), both with the
    old z. β = p α for p workers makes the two forces equal and opposite: z ← z + α Σ_i (y_i - z).

    The centre z is the server's model; the communication period τ is ``Local.steps``. p counts the workers of the
    round, so cohorts may be smaller than all clients; a worker's first model is the centre it meets. β = 0.9 and
    τ = 10 are what we know as the paper's usual choice (from memory); the LSGD authors' code runs β = 0.43.

    Paper: Zhang, Choromanska, LeCun, Deep learning with Elastic Averaging SGD, 2015,
    https://arxiv.org/abs/1412.6651; the order of the two moves as in https://github.com/yunfei-teng/LSGD.

    Args:
        beta: β, share of the way that the centre goes to the workers' mean, in (0, 1].
        alpha: α, share of the way that a worker goes to the centre, in [0, 1); None for β / p.
    """

    beta: Share = 0.9
    alpha: BelowOne | None = None

    own_models: ClassVar[bool] = True

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down the centre, up every worker's model as it was before the pull."""
        alpha = self.beta / clients.number if self.alpha is None else self.alpha
        mean_P = clients.mean(elastic, server.x_P, alpha, uniform=True)
        return server.at(torch.lerp(server.x_P, mean_P, self.beta))


@dataclass(frozen=True)
class EAMSGD(EASGD):
    """Elastic averaging with Nesterov's momentum on the workers; the velocity feels the gradients, not the spring.

    As EASGD, with workers v ← μ v - η ∇f_i(x + μ v), x ← x + v. Asks for ``SGD(momentum, nesterov=True)`` and
    ``Local.keep_state``, since a velocity outlives the round. torch's form of the same iteration keeps x + μ v in
    place of x, so it is that point which the spring pulls.

    Paper: Zhang, Choromanska, LeCun, Deep learning with Elastic Averaging SGD, 2015,
    https://arxiv.org/abs/1412.6651.

    Args:
        beta: β, share of the way that the centre goes to the workers' mean, in (0, 1].
        alpha: α, share of the way that a worker goes to the centre, in [0, 1); None for β / p.
    """

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """Momentum, Nesterov's, and kept."""
        optimizer = local.optimizer
        if getattr(optimizer, "momentum", 0) and getattr(optimizer, "nesterov", False) and local.keep_state:
            return
        raise ConfigError(
            "EAMSGD is elastic averaging with Nesterov's momentum that workers keep from round to round, got "
            f"{optimizer} with keep_state={local.keep_state}. Use SGD(momentum=0.9, nesterov=True) and "
            "keep_state=True, or the rule EASGD for anything else."
        )


@dataclass(frozen=True)
class Downpour(Rule):
    """Synchronous DOWNPOUR SGD: the server adds up what all workers changed, every worker goes on from there.

    y_i = local training from z;  z ← z + Σ_i (y_i - z);  x_i ← z. A sum, with no averaging factor: with p workers it
    is Local SGD with a server step of p, so local step sizes must be that much smaller. Pushing and pulling have the
    same period, ``Local.steps``.

    Paper: Dean, Corrado, Monga, Chen, Devin, Mao, Ranzato, Senior, Tucker, Yang, Le, Ng, Large Scale Distributed
    Deep Networks, 2012, https://papers.nips.cc/paper/2012/hash/6aca97005c68f1206823815f66102863-Abstract.html.
    """

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down the model, up one row per client."""
        return server.at(server.x_P + clients.sum(local_update, server.x_P))


def elastic(cohort: Cohort, z_P: Tensor, alpha: float) -> Tensor:
    """Train each worker's own model, then pull it to the centre; returns the models before the pull."""
    x_CP = cohort.state.rows("model", z_P)
    y_CP = cohort.train(x_CP)
    torch.lerp(y_CP, z_P.expand_as(y_CP), alpha, out=x_CP)
    return y_CP


def local_update(cohort: Cohort, z_P: Tensor) -> Tensor:
    """What each client's training changed, [C, P]."""
    return cohort.update(z_P)
