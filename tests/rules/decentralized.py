"""What tests of rules with a model per client share: a small heterogeneous problem, graphs, naive gradients.

Everything naive is numpy in float64, one client after the other, full batch, written from the papers' updates.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

import raysim as rs
from raysim.core.interfaces import Topology
from raysim.runtime.coordinator import Coordinator
from tests.experiments import arrays

FEATURES, CLASSES = 5, 3
P = CLASSES * FEATURES + CLASSES
SIZES = (3, 17, 8, 5, 21, 6)
N = len(SIZES)
ROUNDS = 20


def circulant(n, shifts):
    """Equal weights for these shifts: doubly stochastic, symmetric only if the shifts are."""
    return sum(np.roll(np.eye(n), s, axis=1) for s in shifts) / len(shifts)


@dataclass(frozen=True)
class Circle(Topology):
    """Everybody to a third: himself and both neighbours."""

    def mixing(self, clients, round):
        return csr_array(circulant(clients, (-1, 0, 1)))


@dataclass(frozen=True)
class Directed(Topology):
    """Doubly stochastic, not symmetric."""

    def mixing(self, clients, round):
        return csr_array(circulant(clients, (0, 1, 3)))


@dataclass(frozen=True)
class Irregular(Topology):
    """A star with an edge more: symmetric, all weights unequal."""

    def mixing(self, clients, round):
        W = np.zeros((clients, clients))
        W[0, 1:] = W[1:, 0] = 0.7 / clients
        W[2, 3] = W[3, 2] = 0.2
        return csr_array(W + np.diag(1 - W.sum(0)))


@dataclass(frozen=True)
class Everyone(Topology):
    """The complete graph."""

    def mixing(self, clients, round):
        return csr_array(np.full((clients, clients), 1 / clients))


@dataclass(frozen=True)
class Nobody(Topology):
    """No links."""

    def mixing(self, clients, round):
        return csr_array(np.eye(clients))


@dataclass(frozen=True)
class OneAfterTheOther(Topology):
    """One neighbour a round, at distance 1, 2 and 3 in turn."""

    varies = True

    def mixing(self, clients, round):
        return csr_array(circulant(clients, (0, 1 + round % 3)))


FIXED = [Circle(), Directed(), Irregular(), Everyone()]
ALL = [*FIXED, OneAfterTheOther()]


def sgd(lr=0.3, steps=1, **fields):
    return rs.Local(optimizer=rs.optimizers.SGD(lr=lr), steps=steps, **fields)


def small(rule, **changes):
    """Softmax regression; examples sorted by label and dealt out in unequal pieces, so that no two clients agree."""
    data = arrays(n=sum(SIZES), features=FEATURES, classes=CLASSES)
    order = np.argsort(data.y_train, kind="stable")
    shares = np.split(order, np.cumsum(SIZES)[:-1])
    fields = {
        "data": data,
        "partition": rs.partitions.Explicit(indices=shares),
        "model": rs.models.Linear(),
        "local": sgd(),
        "rounds": ROUNDS,
        "execution": rs.Execution(block=2),
    }
    return rs.Simulation(rule=rule, **(fields | changes))


def quadratic(rule, rounds, lr, **changes):
    """Clients with optima and curvatures of their own; the optimum of their mean is known."""
    data = rs.data.Quadratic(
        clients=6, dimension=4, examples=8, condition=4.0, heterogeneity=1.0, curvature_spread=0.5
    )
    fields = {"data": data, "partition": rs.partitions.ByGroup(), "model": rs.models.Linear(bias=False)}
    fields |= {
        "local": sgd(lr),
        "rounds": rounds,
        "evaluate_every": rounds,
        "execution": rs.Execution(block=6),
    }
    return small(rule, **(fields | changes))


def final(sim):
    """The shared model and all clients' rows at the end."""
    coordinator = Coordinator(sim, None)
    outcome = coordinator.run()
    store = coordinator.fleet.host.rows
    rows = {name: store.pick(name, np.arange(len(store.slot))).numpy() for name in store.tensors}
    return outcome, rows


def problem(sim):
    """The start [P] in float64, and loss-and-gradient functions of all clients."""
    data = sim.data.load()
    shares = sim.partition.split(data, sim.seed)
    clients = [_softmax(data.x_train[i].astype(np.float64), data.y_train[i]) for i in shares]
    start = torch.cat([p.detach().reshape(-1) for p in sim.initial_model().parameters()])
    return start.numpy().astype(np.float64), clients


def _softmax(x, y):
    def loss_and_gradient(w):
        weight, bias = w[: CLASSES * FEATURES].reshape(CLASSES, FEATURES), w[CLASSES * FEATURES :]
        out = x @ weight.T + bias
        p = np.exp(out - out.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        loss = -np.log(p[np.arange(len(y)), y]).mean()
        p[np.arange(len(y)), y] -= 1
        return loss, np.concatenate([(p.T @ x / len(y)).reshape(-1), p.mean(0)])

    return loss_and_gradient


def trained(client, w, lr, steps):
    """Plain gradient descent; and the mean loss on the way."""
    losses = []
    for _ in range(steps):
        loss, gradient = client(w)
        losses.append(loss)
        w = w - lr * gradient
    return w, np.mean(losses)


def agree(sim, expected_NP):
    """All clients' models, and their mean as the shared one."""
    outcome, rows = final(sim)
    np.testing.assert_allclose(rows["model"], expected_NP, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outcome.server.x_P.numpy(), expected_NP.mean(0), rtol=1e-5, atol=1e-5)


def refused(rule, words, **changes):
    import pytest

    with pytest.raises(rs.ConfigError) as error:
        small(rule, **changes).load()
    assert words in str(error.value)


def combined_next(sim):
    """Rule.models in round 3, the rows "model" before that round and after it; looking changes nothing."""
    from raysim.core.clients import Clients

    coordinator = Coordinator(sim, None)
    server = coordinator._prepare()
    for round in range(4):
        clients = Clients(coordinator.fleet, coordinator._plan(round), coordinator.P)
        before = server
        if round == 3:
            old = coordinator.fleet.fetch("model", np.arange(N))
            models = clients.rows(sim.rule.models, server, measure=True)
            again = clients.rows(sim.rule.models, server, measure=True)
            assert torch.equal(models, again)
            assert clients.bits_up == clients.bits_down == 0
        server = sim.rule.round(clients, server)
        server = type(server)(server.x_P, before.round + 1, server.state)
    order = np.argsort(clients.ids)
    return models[order].numpy(), old.numpy(), coordinator.fleet.fetch("model", np.arange(N)).numpy()
