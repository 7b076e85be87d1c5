"""Averaging against a naive FedAvg: one client after the other, torch.optim, torch.nn, written from the papers."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import raysim as rs
from tests.experiments import digits, same


def naive(sim, batch, local_optimizer, server_optimizer, uniform=False, rounds=None):
    """FedAvg (McMahan 2017, algorithm 1) with full participation and stored batch order; returns the flat model."""
    data = sim.data.load()
    shares = sim.partition.split(data, sim.seed)
    model = sim.initial_model()
    server = server_optimizer(model.parameters())
    weights = np.ones(len(shares)) if uniform else np.array([len(s) for s in shares], float)
    weights /= weights.sum()
    for _ in range(rounds or sim.rounds):
        start = [p.detach().clone() for p in model.parameters()]
        change = [torch.zeros_like(p, dtype=torch.float64) for p in start]
        for share, weight in zip(shares, weights, strict=True):
            client = copy.deepcopy(model)
            optimizer = local_optimizer(client.parameters())
            x, y = torch.from_numpy(data.x_train[share]), torch.from_numpy(data.y_train[share])
            for a, b in zip(x.split(batch or len(x)), y.split(batch or len(y)), strict=True):
                optimizer.zero_grad()
                F.cross_entropy(client(a), b).backward()
                optimizer.step()
            for total, p, p0 in zip(change, client.parameters(), start, strict=True):
                total += weight * (p.detach() - p0)
        server.zero_grad()
        for p, total in zip(model.parameters(), change, strict=True):
            p.grad = -total.to(torch.float32)
        server.step()
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


SERVERS = {
    "FedAvg": (None, lambda p: torch.optim.SGD(p, lr=1.0)),
    "FedAvgM": (rs.optimizers.SGD(lr=0.5, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9)),
    "DiLoCo": (
        rs.optimizers.SGD(lr=0.7, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.7, momentum=0.9, nesterov=True),
    ),
    "FedAdam": (rs.optimizers.Adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
def test_equals_naive_fedavg(server, form):
    ours, theirs = SERVERS[server]
    sim = digits(
        partition=rs.partitions.Dirichlet(clients=12, alpha=0.3),
        local=rs.Local(
            optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=16, shuffle=False
        ),
        rule=rs.rules.Averaging(server=ours),
        cohort=None,
        rounds=5,
        execution=rs.Execution(form=form, block=5),
    )
    expected = naive(sim, 16, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), theirs)
    torch.testing.assert_close(sim.run(None).x_P, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("local", ["AdamW", "Nesterov", "decay"])
def test_equals_naive_with_other_local_optimizers(local):
    ours, theirs = {
        "AdamW": (rs.optimizers.AdamW(lr=0.01), lambda p: torch.optim.AdamW(p, lr=0.01)),
        "Nesterov": (
            rs.optimizers.SGD(lr=0.05, momentum=0.9, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        ),
        "decay": (
            rs.optimizers.SGD(lr=0.1, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
        ),
    }[local]
    sim = digits(
        partition=rs.partitions.Dirichlet(clients=6, alpha=1.0),
        local=rs.Local(optimizer=ours, epochs=1, batch_size=32, shuffle=False),
        cohort=None,
        rounds=3,
    )
    expected = naive(sim, 32, theirs, SERVERS["FedAvg"][1])
    torch.testing.assert_close(sim.run(None).x_P, expected, rtol=1e-3, atol=5e-5)


def test_full_batch_twenty_rounds_and_uniform_weights():
    sim = digits(
        partition=rs.partitions.Dirichlet(clients=10, alpha=0.3),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1),
        rule=rs.rules.Averaging(weighting="uniform"),
        cohort=None,
        rounds=20,
    )
    expected = naive(sim, None, lambda p: torch.optim.SGD(p, lr=0.1), SERVERS["FedAvg"][1], uniform=True)
    torch.testing.assert_close(sim.run(None).x_P, expected, rtol=1e-5, atol=1e-5)


def test_zero_steps_leave_the_model_alone():
    sim = digits(local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=0, batch_size=8))
    result = sim.run(None)
    initial = torch.cat([p.detach().reshape(-1) for p in sim.initial_model().parameters()])
    assert torch.equal(result.x_P, initial)


def test_equal_clients_are_one_client():
    """n clients with the same data and full batches move as one of them alone does."""
    data = rs.data.Digits().load()
    x, y = data.x_train[:40], data.y_train[:40]
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=3)
    runs = []
    for copies in (1, 5):
        tile = rs.data.Arrays(
            x_train=np.tile(x, (copies, 1, 1, 1)), y_train=np.tile(y, copies), x_test=x, y_test=y
        )
        share = rs.partitions.Explicit(indices=[np.arange(40) + 40 * c for c in range(copies)])
        runs.append(digits(data=tile, partition=share, local=local, cohort=None).run(None).x_P)
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-5, atol=1e-6)


def test_permuting_clients_changes_nothing():
    shares = rs.partitions.Dirichlet(clients=8, alpha=0.5).split(rs.data.Digits().load(), 0)
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=2)
    runs = [
        digits(partition=rs.partitions.Explicit(indices=order), local=local, cohort=None).run(None).x_P
        for order in (shares, shares[::-1])
    ]
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-6)


def test_reaches_the_optimum_of_quadratics():
    """One local step is gradient descent on the sum, which ends at its minimiser; more steps stop elsewhere."""
    data = rs.data.Quadratic(clients=6, dimension=4, examples=8, condition=4.0, heterogeneity=1.0)
    optimum = torch.from_numpy(np.asarray(data.load().optimum, np.float32))
    fields = {"data": data, "partition": rs.partitions.ByGroup(), "model": rs.models.Linear(bias=False)}
    fields |= {"cohort": None, "rounds": 300, "evaluate_every": 300}
    one = digits(**fields, local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.2), steps=1)).run(None)
    torch.testing.assert_close(one.x_P, optimum, rtol=1e-4, atol=1e-4)


def test_bits_are_one_model_each_way_per_client():
    result = digits(rounds=3).run(None)
    P = result.x_P.numel()
    assert result.metrics["bits_up"].iloc[-1] == result.metrics["bits_down"].iloc[-1] == 3 * 8 * 32 * P
    assert result.metrics["client_updates"].iloc[-1] == 24


def test_repeatable_and_seeded():
    a, b, c = digits().run(None), digits().run(None), digits(seed=1).run(None)
    assert same(a, b)
    assert not torch.equal(a.x_P, c.x_P)


def test_schedule_over_rounds():
    """A step size that falls to almost nothing after the first round leaves the model where that round left it."""
    falling = rs.Local(
        optimizer=rs.optimizers.SGD(lr=rs.schedules.Step(lr=0.1, every=1, factor=1e-9)), steps=2, batch_size=8
    )
    constant = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=2, batch_size=8)
    torch.testing.assert_close(
        digits(local=falling, rounds=3).run(None).x_P,
        digits(local=constant, rounds=1).run(None).x_P,
        rtol=0,
        atol=1e-6,
    )
