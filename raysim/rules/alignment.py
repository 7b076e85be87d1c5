"""Gradient alignment: clients look at their loss a little way along what sets their gradient apart from the mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Optimizer, Rows, Rule
from raysim.core.local import Local
from raysim.core.plugin import ConfigError, NonNegative
from raysim.core.server import Server
from raysim.rules.plain import is_plain

Weighting = Literal["examples", "uniform"]


class _Aligning(Rule):
    """What the three methods share: before anything else, the cohort's mean gradient ∇f(x) = Σ_i w_i ∇f_i(x)."""

    weighting: Weighting

    def mean(self, clients: Clients, function: Any, *shared: Any, measure: bool = False) -> Tensor:
        """Both means of a round are taken with the same weights, or the displacements would not cancel."""
        return clients.mean(function, *shared, uniform=self.weighting == "uniform", measure=measure)

    def informed(self, clients: Clients, server: Server) -> Server:
        """With the mean gradient, which clients train by."""
        return server.at(
            server.x_P, mean_gradient=self.mean(clients, full_gradient, server.x_P, measure=True)
        )


@dataclass(frozen=True)
class GradAlign(_Aligning):
    """Gradient alignment: one step along the mean of gradients taken at displaced points.

    v_i = β (∇f_i(x) - ∇f(x));  x ← x - α Σ_i w_i ∇f_i(x + v_i), or a server step along α Σ_i w_i ∇f_i(x + v_i).

    α is the step size of ``Local.optimizer`` and all gradients are over the clients' full data: of ``Local`` nothing
    else is used. To first order in β it is gradient descent on f + (β/2) V with the gradients' variance
    V(x) = Σ_i w_i ||∇f_i(x) - ∇f(x)||², so β > 0 pulls the gradients together; β = α/2 is the strength with which a
    sequential pass of SGD over the clients does so by itself.

    Paper: Dandi, Barba, Jaggi, Implicit Gradient Alignment in Distributed and Federated Learning, 2022,
    https://arxiv.org/abs/2106.13897; the update as in their code, github.com/epfml/GradientAlignment.

    Args:
        beta: β, how far clients are displaced, at least 0 (0: gradient descent).
        server: server optimiser on the pseudo-gradient; None takes it as the step.
        weighting: w_i by number of "examples", or "uniform".
    """

    beta: NonNegative
    server: Optimizer | None = None
    weighting: Weighting = "examples"

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """Only a step size is taken from local training, so the optimiser may have nothing else to say."""
        if not is_plain(local.optimizer):
            raise ConfigError(
                "GradAlign takes one plain gradient step of size Local.optimizer.lr and would ignore the rest of "
                f"{local.optimizer}. Write Local.optimizer: SGD with lr alone, and momentum or the like into "
                "GradAlign.server, or use FedGA, whose clients train with any optimiser."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """Two exchanges: down x, up gradients; down their mean, up gradients at the displaced points."""
        mean_P = self.mean(clients, full_gradient, server.x_P)
        aligned_P = self.mean(clients, aligned_gradient, server.x_P, mean_P, self.beta)
        return server.step(self.server, clients.lr * aligned_P)

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """Each client's own step, x - α ∇f_i(x + v_i)."""
        grad_CP = aligned_gradient(cohort, server.x_P, server.state["mean_gradient"], self.beta)
        return server.x_P - cohort.lr * grad_CP


@dataclass(frozen=True)
class FedGA(_Aligning):
    """Federated gradient alignment: local training from displaced starts.

    y_i = x + β (∇f_i(x) - ∇f(x)), full gradients; then local training of y_i;
    Δ = Σ_i w_i (what training changed in y_i);  x ← server step along -Δ  (no server optimiser: x ← x + Δ).

    The displacements add up to nothing, so x + Δ is the mean of the trained y_i, as in the paper; where "neutral" gives
    clients different β, leaving them out of Δ keeps them from moving the mean. For K plain gradient steps of size α
    a round is, to first order, K steps of gradient descent on f + ½ (β - α(K-1)/2) V, V the variance of the gradients:
    averaging alone (β = 0) rewards variance, β = α(K-1)/2 is neutral, only more than that aligns (derived from the
    update; the authors' example, β = 0.025 with α = 0.05 and K = 10, lies below the neutral 0.225).

    Paper: Dandi, Barba, Jaggi, Implicit Gradient Alignment in Distributed and Federated Learning, 2022,
    https://arxiv.org/abs/2106.13897; the round as in their code, github.com/epfml/GradientAlignment.

    Args:
        beta: β, how far clients are displaced, at least 0 (0: Averaging), or "neutral" for α(K-1)/2 with each
            client's own number of steps K: what cancels the drift of K plain SGD steps.
        server: server optimiser on the pseudo-gradient -Δ; None averages plainly.
        weighting: w_i by number of "examples", or "uniform"; of both means.
    """

    beta: NonNegative | Literal["neutral"]
    server: Optimizer | None = None
    weighting: Weighting = "examples"

    def round(self, clients: Clients, server: Server) -> Server:
        """Two exchanges: down x, up gradients; down their mean, up what training changed."""
        mean_P = self.mean(clients, full_gradient, server.x_P)
        delta_P = self.mean(clients, displaced_update, server.x_P, mean_P, self.beta)
        return server.step(self.server, -delta_P)

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """The trained y_i."""
        return cohort.train(
            displaced(cohort, server.x_P, server.state["mean_gradient"], self.beta), inplace=True
        )


@dataclass(frozen=True)
class SequentialGradAlign(_Aligning):
    """Gradient alignment of mini-batches: every local step displaces, takes the gradient there, and returns.

    ∇f(x) = the cohort's mean full gradient at the round's start. For every local step of client i, on its batch b:
    g = ∇f_b(y_i);  d = ∇f_b(y_i + β (g - ∇f(x)));  y_i ← local optimiser's step along d, from y_i;
    Δ = Σ_i w_i (y_i - x);  x ← server step along -Δ.

    The method is for a single model trained on one mini-batch after the other, where displacements would not cancel in
    any mean and so are taken back. That is an experiment with one client; with ``steps=1`` ∇f is new at every step.
    With more clients each does so on its own batches, towards the gradient of them all. A step costs two gradients.

    Paper: Dandi, Barba, Jaggi, Implicit Gradient Alignment in Distributed and Federated Learning, 2022,
    https://arxiv.org/abs/2106.13897; this variant is the function SGA of their code,
    github.com/epfml/GradientAlignment. The mean over several clients is raysim's.

    Args:
        beta: β, how far every step is displaced, at least 0 (0: Averaging).
        server: server optimiser on the pseudo-gradient -Δ; None averages plainly.
        weighting: w_i by number of "examples", or "uniform"; of both means.
    """

    beta: NonNegative
    server: Optimizer | None = None
    weighting: Weighting = "examples"

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """A displaced gradient is that of no loss along which a step could be searched."""
        if local.optimizer.searches:
            raise ConfigError(
                f"SequentialGradAlign steps along displaced gradients, for which {local.optimizer} finds no step: its "
                "search asks how the loss changes along the gradient itself. Use SGD or Adam as Local.optimizer."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """Two exchanges: down x, up gradients; down their mean, up what training changed."""
        mean_P = self.mean(clients, full_gradient, server.x_P)
        delta_P = self.mean(clients, aligned_update, server.x_P, mean_P, self.beta)
        return server.step(self.server, -delta_P)

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """The trained y_i."""
        aligned = Aligned(cohort.local.optimizer, server.state["mean_gradient"], self.beta)
        return cohort.train(server.x_P, optimizer=aligned)


# ---- what clients do -----------------------------------------------------------------------------------------


def full_gradient(cohort: Cohort, x_P: Tensor) -> Tensor:
    """∇f_i(x) over all of each client's examples, [C, P]."""
    return cohort.gradient(x_P)


def displaced(cohort: Cohort, x_P: Tensor, mean_P: Tensor, beta: float | Literal["neutral"]) -> Tensor:
    """X + β (∇f_i(x) - ∇f(x)), [C, P]. The gradient is computed again: keeping it would cost a row per client."""
    strength = _neutral(cohort).to(x_P) if beta == "neutral" else beta
    return cohort.gradient(x_P).sub_(mean_P).mul_(strength).add_(x_P)


def aligned_gradient(cohort: Cohort, x_P: Tensor, mean_P: Tensor, beta: float) -> Tensor:
    """∇f_i at the displaced points, [C, P]."""
    return cohort.gradient(displaced(cohort, x_P, mean_P, beta))


def displaced_update(cohort: Cohort, x_P: Tensor, mean_P: Tensor, beta: float | Literal["neutral"]) -> Tensor:
    """What training from the displaced points changes, [C, P]."""
    return cohort.update(displaced(cohort, x_P, mean_P, beta))


def aligned_update(cohort: Cohort, x_P: Tensor, mean_P: Tensor, beta: float) -> Tensor:
    """What training with displaced gradients changes, [C, P]."""
    return cohort.update(x_P, optimizer=Aligned(cohort.local.optimizer, mean_P, beta))


def _neutral(cohort: Cohort) -> Tensor:
    """α(K-1)/2 of each client, [C, 1]."""
    return torch.from_numpy(cohort.lr * np.maximum(cohort.steps_C - 1, 0) / 2).unsqueeze(1)


# ---- the step that displaces and returns ---------------------------------------------------------------------


@dataclass(frozen=True)
class Displaced:
    """An objective that answers with the gradient at x + β (∇f_b(x) - ∇f), on the same batch; its loss is that at x.

    Args:
        objective: of the step's batch.
        mean_P: ∇f.
        beta: β.
    """

    objective: Any
    mean_P: Tensor
    beta: float

    def value_and_grad(self, x_CP: Tensor) -> tuple[Tensor, Tensor]:
        """Loss [C] at ``x_CP`` and gradient [C, P] at the displaced points."""
        loss_C, grad_CP = self.objective.value_and_grad(x_CP)
        there_CP = (grad_CP - self.mean_P).mul_(self.beta).add_(x_CP)
        return loss_C, self.objective.value_and_grad(there_CP)[1]

    def value(self, x_CP: Tensor) -> Tensor:
        """Loss [C] at ``x_CP``."""
        return self.objective.value(x_CP)


@dataclass(frozen=True)
class Aligned(Optimizer):
    """An optimiser whose every gradient is displaced.

    Args:
        optimizer: what steps along it.
        mean_P: ∇f.
        beta: β.
    """

    optimizer: Optimizer
    mean_P: Tensor
    beta: float

    def init(self, x_CP: Tensor) -> Rows:
        """That of the optimiser inside."""
        return self.optimizer.init(x_CP)

    def step(self, objective: Any, x_CP: Tensor, state: Rows, lr: float | Tensor) -> Tensor:
        """Its step on the displaced objective."""
        return self.optimizer.step(Displaced(objective, self.mean_P, self.beta), x_CP, state, lr)
