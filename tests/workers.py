"""Clients with models of their own, naively, one after the other; and small experiments on them."""

import dataclasses

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import raysim as rs
from raysim.core.clients import Clients
from raysim.runtime.coordinator import Coordinator
from tests.experiments import arrays


def few(rule, **changes):
    """Five clients, full batches, 20 rounds of 3 steps: nothing random."""
    fields = {
        "data": arrays(),
        "partition": rs.partitions.IID(clients=5),
        "model": rs.models.MLP(hidden=(8,)),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.2), steps=3),
        "rule": rule,
        "cohort": None,
        "rounds": 20,
        "execution": rs.Execution(block=2),
    }
    return rs.Simulation(**(fields | changes))


def played(sim):
    """A run's last server model and metrics, and every client's own model [N, P], None where there are none."""
    coordinator = Coordinator(sim, None)
    outcome = coordinator.run()
    every = np.arange(coordinator.shards.number)
    models_NP = coordinator.fleet.fetch("model", every) if sim.rule.own_models else None
    return outcome.server.x_P, models_NP, outcome.rows


class Stepwise:
    """An experiment round by round, with models that clients start from."""

    def __init__(self, sim, start_NP=None):
        self.coordinator, self.rule = Coordinator(sim, None), sim.rule
        self.server = self.coordinator._prepare()
        if start_NP is not None:
            fill_P = self.server.x_P.numpy()
            self.host.rows.take(np.arange(len(start_NP)), {"model": start_NP}, {"model": fill_P})

    @property
    def host(self):
        return self.coordinator.fleet.host

    @property
    def models_NP(self):
        return self.coordinator.fleet.fetch("model", np.array(sorted(self.host.rows.slot)))

    def clients(self):
        """The coming round's cohort."""
        return Clients(self.coordinator.fleet, self.coordinator._plan(self.server.round), self.coordinator.P)

    def step(self):
        """One round; its cohort."""
        clients = self.clients()
        after = self.rule.round(clients, self.server)
        self.server = dataclasses.replace(after, round=self.server.round + 1)
        return clients


class Worker:
    """One client."""

    def __init__(self, sim, share, optimizer):
        data = sim.data.load()
        self.model = sim.initial_model()
        self.optimizer = optimizer(self.model.parameters())
        self.x, self.y = torch.from_numpy(data.x_train[share]), torch.from_numpy(data.y_train[share])

    def loss(self):
        return F.cross_entropy(self.model(self.x), self.y)

    def train(self, steps, term=lambda x_P: 0.0, after_step=lambda x_P: x_P):
        """Full-batch steps on loss + term(x), each followed by x <- after_step(x); mean loss without the term."""
        losses = []
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.loss()
            losses.append(loss.item())
            (loss + term(nn.utils.parameters_to_vector(self.model.parameters()))).backward()
            self.optimizer.step()
            self.flat = after_step(self.flat)
        return sum(losses) / steps

    @property
    def flat(self):
        return nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()

    @flat.setter
    def flat(self, x_P):
        nn.utils.vector_to_parameters(x_P.clone(), self.model.parameters())


def workers_of(sim, optimizer):
    """Every client of an experiment, all at the initial model."""
    shares = sim.partition.split(sim.data.load(), sim.seed)
    return [Worker(sim, share, optimizer) for share in shares]


class Wells(nn.Module):
    """One parameter; on the two examples of ``wells`` its squared error is a double well with a lower right half."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x[:, :1] * self.w**2 + x[:, 1:] * self.w


TILT = 0.5


def wells(rule):
    """Two clients with one f(w) = ((w² - 1)² + TILT² (w - 1)²) / 4, minima at 1 and about -0.85; one step a round."""
    x = np.array([[1, 0], [0, TILT]] * 2, np.float32)
    y = np.array([1, TILT] * 2, np.float32)
    return few(
        rule,
        data=rs.data.Arrays(x_train=x, y_train=y, x_test=x, y_test=y),
        partition=rs.partitions.Explicit(indices=[[0, 1], [2, 3]]),
        model=rs.models.Custom(Wells),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.5), steps=1),
        execution=rs.Execution(form="loop"),
    )


def wells_gradient(w):
    """f'(w)."""
    return w * (w * w - 1) + TILT**2 * (w - 1) / 2
