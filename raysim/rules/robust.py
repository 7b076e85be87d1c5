"""Robust aggregation: federated averaging whose server trusts no single client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from raysim.core.clients import Clients
from raysim.core.interfaces import Aggregator, Optimizer, Rule
from raysim.core.local import Local
from raysim.core.server import Server
from raysim.rules.averaging import local_update


@dataclass(frozen=True)
class Robust(Rule):
    """Robust aggregation: every client trains from the shared model, the server combines updates so that few can harm.

    y_i = local training from x;  Δ = A(y_1 - x, ..., y_n - x);  x ← server step along -Δ  (no server optimiser:
    x ← x + Δ).

    All clients count the same, however many examples they have: what a client says of itself may be a lie too. With
    ``Mean`` it is Averaging with uniform weights. An aggregator with a memory, such as ``CenteredClipping``, starts a
    round from the Δ of the one before. The cohort's rows must fit into one place.

    Paper: Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
    2018, https://arxiv.org/abs/1803.01498; each aggregator has its own.

    Args:
        aggregator: A, how the updates become one.
        server: server optimiser on the pseudo-gradient -Δ; None takes Δ as it is.
    """

    gathers: ClassVar[bool] = True

    aggregator: Aggregator
    server: Optimizer | None = None

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """The aggregator must be able to work on a cohort."""
        self.aggregator.fit(cohort)

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down x, up one row per client, all of which the server sees."""
        rows_CP = clients.rows(local_update, server.x_P)
        before_P = server.state.get("aggregate", torch.zeros_like(server.x_P))
        delta_P = self.aggregator.combine(rows_CP, clients.key("aggregate"), before_P)
        kept = {"aggregate": delta_P} if self.aggregator.keeps else {}
        return server.step(self.server, -delta_P, **kept)
