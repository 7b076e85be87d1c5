"""Gradient tracking: gossip in which every client follows an estimate of the mean gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Rule, Topology
from raysim.core.local import Local
from raysim.core.plugin import ConfigError
from raysim.core.server import Server
from raysim.rules.own import begin, kept, mean_model, own, start_from
from raysim.rules.plain import is_plain, one_gradient


@dataclass(frozen=True)
class GradientTracking(Rule):
    """Gradient tracking (DSGT, DIGing): a second gossip, on gradients, removes the bias that unequal data give gossip.

    x_i ← Σ_j w_ij (x_j - η y_j);  y_i ← Σ_j w_ij y_j + g_i(new x_i) - g_i(old x_i), from y_i = g_i(x_i) at the start.
    The mean of the y_i is always the mean of the g_i. With full gradients and a constant step size η all clients reach
    the minimum of the mean loss.

    One gradient a round, so local training must be ``steps=1`` of plain SGD, of which only the step size is used.

    Paper: Pu, Nedić, Distributed Stochastic Gradient Tracking Methods (DSGT), 2021, https://arxiv.org/abs/1805.11454;
    Nedić, Olshevsky, Shi, Achieving Geometric Convergence for Distributed Optimization over Time-Varying Graphs
    (DIGing, where x is mixed before the step), 2017, https://arxiv.org/abs/1607.03218.

    Args:
        topology: who averages with whom, and with which weights.
    """

    own_models: ClassVar[bool] = True
    everyone: ClassVar[bool] = True

    topology: Topology

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """The topology's say, and one gradient a round."""
        self.topology.fit(clients)
        one_gradient(type(self).__name__, local)
        if not is_plain(local.optimizer):
            raise ConfigError(
                "GradientTracking moves along its own estimate of the mean gradient and uses the step size of the "
                f"local optimiser only, got {local.optimizer!r}. Use SGD(lr=...) without momentum or weight decay."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """One gradient; each edge carries two rows, the model and the tracker."""
        begin(clients, server)
        matrix = self.topology.mixing(clients.number, server.round)
        clients.run(track)
        clients.mix("model", matrix)
        clients.mix("tracker", matrix)
        return server.at(mean_model(clients))

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """x_i - η y_i."""
        start_from(cohort, server.x_P)
        track(cohort)
        return own(cohort)


def track(cohort: Cohort) -> None:
    """The tracker, mixed at the end of the last round, follows the gradient's change; the model follows the tracker."""
    x_CP, y_CP, last_CP = own(cohort), kept(cohort, "tracker"), kept(cohort, "gradient")
    grad_CP = cohort.gradient(x_CP, step=0)
    y_CP.add_(grad_CP).sub_(last_CP)
    last_CP.copy_(grad_CP)
    x_CP.sub_(y_CP, alpha=cohort.lr)
