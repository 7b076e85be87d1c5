"""One step size for all clients, agreed upon from those that each client's own line search finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Optimizer, Rule
from raysim.core.local import Local
from raysim.core.plugin import ConfigError
from raysim.core.server import Server


@dataclass(frozen=True)
class SharedStep(Rule):
    """Parallel SGD whose clients search for a step on their own batches and then all take the same one.

    Every client searches from x along its g_i and sends the α_i it finds; the server answers α = mean or min of them;
    every client sends -a α g_i, and x moves along the mean of what arrives, all clients weighing the same (or by a
    server step). a is the search's own ``scale``; each client remembers its α_i, not α, for its next search.

    With ``Averaging`` in its place each client steps by its own a α_i, without a second exchange: the distributed form
    of CSGD-ASSS, in which clients with flat losses count for more. Compressed rows and their memory belong to
    ``Simulation.uplink`` in both; the scalars travel as they are.

    Paper: none; a variant of Subramaniam, Magesh, Veeravalli, Adaptive Step-Size Methods for Compressed SGD, 2022,
    https://arxiv.org/abs/2207.10046

    Args:
        step: α is the "mean" or the "min" of the cohort's α_i.
        server: server optimiser on the mean of the a α g_i; None takes it as the step.
    """

    gathers: ClassVar[bool] = True

    step: Literal["mean", "min"] = "mean"
    server: Optimizer | None = None

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """One step of an optimiser that searches: with more, or another, there is no α_i to send."""
        if not local.optimizer.searches:
            raise ConfigError(
                "SharedStep shares the step size that every client's line search finds, but Local.optimizer is "
                f"{local.optimizer}. Use Armijo there, or Averaging for steps of a fixed size."
            )
        if local.steps != 1:
            got = f"epochs={local.epochs}" if local.steps is None else f"steps={local.steps}"
            raise ConfigError(f"SharedStep takes one step a round, got Local.{got}. Write steps=1.")

    def round(self, clients: Clients, server: Server) -> Server:
        """Two exchanges: down x, up a number; down a number, up a row."""
        step_1 = self._agreed(clients, server)
        delta_P = clients.mean(shared_step, server.x_P, step_1, uniform=True)
        return server.step(self.server, -delta_P)

    def informed(self, clients: Clients, server: Server) -> Server:
        """With α."""
        return server.at(server.x_P, step=self._agreed(clients, server, measure=True))

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """Each client's x - a α g_i."""
        return server.x_P + shared_step(cohort, server.x_P, server.state["step"])

    def _agreed(self, clients: Clients, server: Server, measure: bool = False) -> Tensor:
        step_C1 = clients.rows(own_step, server.x_P, width=1, measure=measure)
        return (step_C1.mean(0) if self.step == "mean" else step_C1.min(0).values).to(server.x_P)


def own_step(cohort: Cohort, x_P: Tensor) -> Tensor:
    """What each client's search from x finds, [C, 1]; the client remembers it, and does not move."""
    cohort.train(x_P)
    return cohort.reports["step"].unsqueeze(1)


def shared_step(cohort: Cohort, x_P: Tensor, step_1: Tensor) -> Tensor:
    """-a α g_i on the batch of the search, [C, P]."""
    share = getattr(cohort.local.optimizer, "scale", 1.0)  # a, a field of optimisers that search
    return cohort.gradient(x_P, step=0).mul_(-share * step_1)
