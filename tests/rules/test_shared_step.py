"""Shared steps against workers by hand; what is remembered, sent, and refused."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import raysim as rs
from raysim.core.clients import Clients
from raysim.optimizers import SGD, Armijo
from raysim.runtime.coordinator import Coordinator
from tests.experiments import digits

CLIENTS = 6


def some(rule, optimizer=None, **changes):
    optimizer = optimizer or Armijo(lr=1.0, scale=0.6)
    fields = {
        "partition": rs.partitions.Dirichlet(clients=CLIENTS, alpha=0.5),
        "model": rs.models.MLP(hidden=(12,), activation="tanh"),
        "local": rs.Local(optimizer=optimizer, steps=1, batch_size=16, shuffle=False, keep_state=True),
        "cohort": None,
        "rounds": 15,
        "rule": rule,
    }
    return digits(**(fields | changes))


def by_hand(sim, combine, scale=0.6, server_lr=1.0):
    """Everyone searches, everyone steps by the mean or the least; each goes on from what it found. Model and steps."""
    data = sim.data.load()
    shares, model = sim.partition.split(data, sim.seed), sim.initial_model(data)
    x, own = parameters_to_vector(model.parameters()).detach(), [None] * CLIENTS

    def both(at, share):
        vector_to_parameters(at.clone(), model.parameters())
        images, labels = (
            torch.from_numpy(data.x_train[share[:16]]),
            torch.from_numpy(data.y_train[share[:16]]),
        )
        loss = F.cross_entropy(model(images), labels)
        return loss.item(), parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))

    for _ in range(sim.rounds):
        gradients = []
        for i, share in enumerate(shares):
            f, g = both(x, share)
            own[i] = 1.0 if own[i] is None else 1.2 * own[i]
            while both(x - own[i] * g, share)[0] > f - 0.1 * own[i] * g.dot(g):
                own[i] *= 0.8
            gradients.append(g)
        alpha = combine(own)
        x = x - server_lr * scale * alpha * sum(gradients) / CLIENTS
    return x, own


@pytest.mark.parametrize(("step", "combine"), [("mean", np.mean), ("min", min)])
@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
def test_equals_workers_by_hand(step, combine, form):
    sim = some(rs.rules.SharedStep(step=step), execution=rs.Execution(form=form, block=4))
    expected, own = by_hand(sim, combine)
    result = sim.run(None)
    torch.testing.assert_close(result.x_P, expected, rtol=1e-3, atol=1e-4)
    sizes = [len(s) for s in sim.partition.split(sim.data.load(), sim.seed)]
    assert result.metrics["step"].iloc[-1] == pytest.approx(np.average(own, weights=sizes), rel=1e-4)
    assert max(own) > 1.5 * min(own)  # what is remembered is each client's own


def test_a_server_optimiser_steps_along_the_mean():
    sim = some(rs.rules.SharedStep(server=SGD(lr=0.5)))
    torch.testing.assert_close(
        sim.run(None).x_P, by_hand(sim, np.mean, server_lr=0.5)[0], rtol=1e-3, atol=1e-4
    )


def test_a_single_client_shares_with_nobody():
    """Mean and least are its own step, and it is averaging."""
    fields = {"partition": rs.partitions.IID(clients=1), "rounds": 5}
    rules = [rs.rules.SharedStep(step="mean"), rs.rules.SharedStep(step="min"), rs.rules.Averaging()]
    first, *others = [some(rule, **fields).run(None).x_P for rule in rules]
    for other in others:
        torch.testing.assert_close(first, other, rtol=1e-5, atol=1e-6)


def test_a_number_and_a_row_each_way():
    result = some(rs.rules.SharedStep(), rounds=3).run(None)
    bits = 3 * CLIENTS * 32 * (len(result.x_P) + 1)
    assert result.metrics["bits_up"].iloc[-1] == result.metrics["bits_down"].iloc[-1] == bits


def test_only_rows_are_compressed():
    """Top-k with memory of rows; the steps, and so what a search finds in the first round, are as without it."""
    uplink = (rs.compressors.Feedback(rs.compressors.TopK(fraction=0.1)),)
    plain, sparse = (some(rs.rules.SharedStep(), rounds=1, uplink=u).run(None) for u in ((), uplink))
    assert plain.metrics["step"].iloc[-1] == sparse.metrics["step"].iloc[-1]
    P, k = len(plain.x_P), round(0.1 * len(plain.x_P))
    assert sparse.metrics["bits_up"].iloc[-1] == CLIENTS * (32 + k * (32 + np.ceil(np.log2(P))))


def client_models(cohort, rule, server):
    return rule.models(cohort, server)


def test_probes_see_the_models_whose_mean_is_the_next_and_change_no_search():
    rule = rs.rules.SharedStep(step="min")
    sim = some(rule)
    coordinator = Coordinator(sim, None)
    server = coordinator._prepare()
    for r in range(3):
        clients = Clients(coordinator.fleet, coordinator._plan(r), coordinator.P)
        informed = rule.informed(clients, server)
        rows_CP = clients.rows(client_models, rule, informed, measure=True)
        server = rule.round(clients, server)
        torch.testing.assert_close(rows_CP.mean(0), server.x_P, rtol=1e-5, atol=1e-6)
    assert torch.equal(server.x_P, sim.replaced(rounds=3).run(None).x_P)


@pytest.mark.parametrize(
    ("local", "words"),
    [
        ({"optimizer": SGD(lr=0.1), "steps": 1}, r"Local\.optimizer is SGD.*Use Armijo"),
        ({"optimizer": Armijo(lr=1.0), "steps": 2}, r"got Local\.steps=2\. Write steps=1"),
        ({"optimizer": Armijo(lr=1.0), "epochs": 1}, r"got Local\.epochs=1\. Write steps=1"),
    ],
)
def test_other_local_training_is_refused(local, words):
    with pytest.raises(rs.ConfigError, match=words):
        some(rs.rules.SharedStep(), local=rs.Local(**local)).run(None)
