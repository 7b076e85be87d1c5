"""What rules with a model per client share: rows "model" that begin as the shared model, train, and are looked at."""

from __future__ import annotations

import torch
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.server import Server


def begin(clients: Clients, server: Server, *names: str) -> None:
    """In the first round all clients start from the shared model, sent and counted once; so do rows of these names."""
    if server.round == 0:
        clients.run(start_from, server.x_P, *names)


def mean_model(clients: Clients) -> Tensor:
    """The uniform mean of all models, to look at: nobody sends anything."""
    return clients.mean(looked_at, uniform=True, measure=True)


def average_all(clients: Clients) -> Tensor:
    """All models become their mean: each client sends its model and receives the mean."""
    mean_P = clients.mean(own, uniform=True)
    clients.run(adopt, mean_P)
    return mean_P


def own(cohort: Cohort, name: str = "model") -> Tensor:
    """Rows that every client has."""
    return cohort.state.rows(name, torch.empty(0))


def looked_at(cohort: Cohort) -> Tensor:
    """The clients' models, to read only."""
    return cohort.state.look("model")


def kept(cohort: Cohort, name: str) -> Tensor:
    """Rows like the models, zero at first."""
    x_CP = own(cohort)
    return cohort.state.rows(name, x_CP.new_zeros(x_CP.shape[1]))


def start_from(cohort: Cohort, x_P: Tensor, *names: str) -> None:
    """Every client's own model begins as this one, and so do rows of these names."""
    for name in ("model", *names):
        cohort.state.rows(name, x_P)


def adapt(cohort: Cohort) -> Tensor:
    """Local training in the clients' own models."""
    return cohort.train(own(cohort), inplace=True)


def adopt(cohort: Cohort, mean_P: Tensor) -> None:
    """This model in place of one's own."""
    own(cohort).copy_(mean_P)
