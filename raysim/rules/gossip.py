"""Gossip: every client trains a model of its own and averages with its neighbours, now and then with everyone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Rule, Topology
from raysim.core.local import Local
from raysim.core.plugin import ConfigError, Count, CountOrZero
from raysim.core.server import Server
from raysim.rules.own import adapt, average_all, begin, kept, mean_model, own


@dataclass(frozen=True)
class Gossip(Rule):
    """Gossip SGD, D-PSGD and, with a period, Gossip-PGA: clients average their models with their neighbours'.

    Adapt-then-combine: x_i ← Σ_j w_ij y_j, where y_j is the local training of x_j. Combine-then-adapt: x_i ← Σ_j w_ij
    x_j + (y_i - x_i), with one step x_i ← Σ_j w_ij x_j - η g_i(x_i), whose gradient and messages can run side by side.
    In every H-th round Gossip-PGA puts the mean of all y_j in place of Σ_j w_ij y_j. The shared model, which is what is
    evaluated, is the mean of all x_i; nobody sends anything for it. All start from one model, sent to each once.

    Without links it is local training, with a period Local SGD; on the complete graph, or with period 1, it is
    Averaging with uniform weights.

    Paper: Lian, Zhang, Zhang, Hsieh, Zhang, Liu, Can Decentralized Algorithms Outperform Centralized Algorithms?
    (D-PSGD: combine-then-adapt), 2017, https://arxiv.org/abs/1705.09056; Chen, Yuan, Zhang, Pan, Xu, Yin,
    Accelerating Gossip SGD with Periodic Global Averaging (Gossip-PGA: adapt-then-combine), 2021,
    https://arxiv.org/abs/2105.09080.

    Args:
        topology: who averages with whom, and with which weights.
        order: "adapt-then-combine" trains, then averages; "combine-then-adapt" averages the models from before training
            and adds what training changed.
        period: rounds from one averaging of all models to the next, H; None for never. Adapt-then-combine only.
    """

    own_models: ClassVar[bool] = True
    everyone: ClassVar[bool] = True

    topology: Topology
    order: Literal["adapt-then-combine", "combine-then-adapt"] = "adapt-then-combine"
    period: Count | None = None

    def check(self) -> None:
        """Global averaging is defined for models that are combined after training."""
        if self.period is not None and self.order != "adapt-then-combine":
            raise ConfigError(
                f"Gossip.period needs order='adapt-then-combine', got period={self.period} with {self.order!r}. Leave "
                "one of them out."
            )

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """The topology's say."""
        self.topology.fit(clients)

    def round(self, clients: Clients, server: Server) -> Server:
        """Train and mix: each edge carries one row; in a round of global averaging one row up and one down each."""
        begin(clients, server)
        matrix = self.topology.mixing(clients.number, server.round)
        if self.order == "combine-then-adapt":
            clients.run(keep_change)
            clients.mix("model", matrix)
            clients.run(add_change)
            return server.at(mean_model(clients))
        mean_P = clients.run(adapt, look=True)
        if self.period and (server.round + 1) % self.period == 0:
            return server.at(average_all(clients))
        clients.mix("model", matrix)
        return server.at(mean_P)  # which mixing leaves as it is

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """Trained models; in combine-then-adapt the models from before training are what is combined."""
        if self.order == "combine-then-adapt":
            return cohort.state.rows("model", server.x_P)
        return super().models(cohort, server)


@dataclass(frozen=True)
class GossipAGA(Rule):
    """Gossip-AGA: gossip with averaging of all models, ever more rarely as the training loss falls.

    Adapt-then-combine as in Gossip. After H rounds the mean of all models replaces mixing; F is the mean training loss
    of that round. In the first ``warmup`` rounds F₀ ← (F₀ + F) / 2, later H ← ⌈(F₀ / F) H₀⌉.

    The first averaging sets F₀ ← F, whatever the warm-up (a choice made here: the mean needs a first value).

    Paper: Chen, Yuan, Zhang, Pan, Xu, Yin, Accelerating Gossip SGD with Periodic Global Averaging, 2021,
    https://arxiv.org/abs/2105.09080.

    Args:
        topology: who averages with whom, and with which weights.
        period: H₀, rounds up to the first averaging of all models.
        warmup: rounds in which the loss is learned and the period stays.
    """

    own_models: ClassVar[bool] = True
    everyone: ClassVar[bool] = True

    topology: Topology
    period: Count = 4
    warmup: CountOrZero = 0

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """The topology's say, and a training loss to go by."""
        self.topology.fit(clients)
        if local.steps == 0:
            raise ConfigError(
                "GossipAGA adapts its period to the training loss, but Local.steps is 0, so there is none. Use at "
                "least one step, or Gossip with a fixed period."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """One round of Gossip-PGA with the period in force."""
        begin(clients, server)
        mean_P = clients.run(adapt, look=True)
        period = server.state.get("period", torch.tensor(self.period))
        counter = server.state.get("counter", torch.tensor(0)) + 1
        clients.note("period", period.item())
        if counter < period:
            clients.mix("model", self.topology.mixing(clients.number, server.round))
            return server.at(mean_P, period=period, counter=counter)
        loss = float(clients.reports["train_loss"].astype(float).mean())
        first = float(server.state.get("first_loss", loss))
        if server.round < self.warmup:
            first = (first + loss) / 2
        elif loss > 0 and math.isfinite(first / loss):  # else the run has ended, well or badly
            period = torch.tensor(math.ceil(first / loss * self.period))
        kept = {"first_loss": torch.tensor(first, dtype=torch.float64), "period": period}
        return server.at(average_all(clients), counter=torch.tensor(0), **kept)


def keep_change(cohort: Cohort) -> None:
    """What local training would change, for after the mixing."""
    kept(cohort, "change").copy_(cohort.update(own(cohort)))


def add_change(cohort: Cohort) -> None:
    """The mixed models, moved by what training changed."""
    own(cohort).add_(own(cohort, "change"))
