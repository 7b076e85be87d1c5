"""MIME-lite against a loop over its equations, and against the centralised method that it imitates."""

import pytest
import torch
from torch.nn import functional as F

import raysim as rs
from raysim.core.cohorts import cohort_ids
from tests.experiments import digits
from tests.rules.flat import ByHand, average

SGD = rs.optimizers.SGD


def few(rule, local, **changes):
    fields = {"partition": rs.partitions.Dirichlet(clients=10, alpha=0.3), "cohort": None, "rounds": 20}
    return digits(**(fields | {"rule": rule, "local": local} | changes))


def naive(sim, eta, beta, server_lr, uniform):
    hand = ByHand(sim)
    N, x, m = len(hand.shares), hand.start.clone(), torch.zeros_like(hand.start)
    for r in range(sim.rounds):
        moved, gradients, ids = [], [], cohort_ids(sim.seed, r, N, sim.cohort_size(N))
        for i in ids:
            y = x.clone()
            for part in hand.batches(i, sim.local):
                y = y - eta * ((1 - beta) * hand.gradient(i, y, part) + beta * m)
            moved.append(x - y)
            gradients.append(hand.gradient(i, x))
        weights = None if uniform else [hand.sizes[i] for i in ids]
        x = x - server_lr * average(moved, weights)
        m = (1 - beta) * average(gradients, weights) + beta * m
    return x


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
@pytest.mark.parametrize("batches", [{"steps": 3}, {"epochs": 1, "batch_size": 48, "shuffle": False}])
def test_equals_naive(form, batches):
    local = rs.Local(optimizer=SGD(lr=0.1), **batches)
    sim = few(rs.rules.MimeLite(momentum=0.9), local, execution=rs.Execution(form=form, block=3))
    torch.testing.assert_close(sim.run(None).x_P, naive(sim, 0.1, 0.9, 1.0, False), rtol=1e-4, atol=1e-5)


def test_equals_naive_with_partial_participation_and_uniform_weights():
    rule = rs.rules.MimeLite(momentum=0.5, lr=0.7, weighting="uniform")
    sim = few(rule, rs.Local(optimizer=SGD(lr=0.1), steps=2), cohort=4)
    torch.testing.assert_close(sim.run(None).x_P, naive(sim, 0.1, 0.5, 0.7, True), rtol=1e-4, atol=1e-5)


def test_one_full_batch_step_is_centralised_momentum_sgd():
    """Steps along (1-β) ∇f + β m with m its running mean: torch's momentum with step size (1-β) η on all examples."""
    sim = few(rs.rules.MimeLite(momentum=0.9), rs.Local(optimizer=SGD(lr=0.5), steps=1))
    data, model = sim.data.load(), sim.initial_model()
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(sim.rounds):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    expected = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(sim.run(None).x_P, expected, rtol=1e-4, atol=1e-5)


def test_without_momentum_it_is_fedavg_with_a_server_step_size():
    runs = [
        digits(rule=rule, rounds=5).run(None).x_P
        for rule in (
            rs.rules.MimeLite(momentum=0.0, lr=0.8),
            rs.rules.Averaging(server=SGD(lr=0.8)),
        )
    ]
    torch.testing.assert_close(*runs, rtol=1e-6, atol=1e-7)


def test_step_sizes_may_be_schedules():
    """Both fall to almost nothing after the first round, together and each alone."""
    falling = rs.schedules.Step(lr=0.1, every=1, factor=1e-9)
    first = few(rs.rules.MimeLite(lr=0.1), rs.Local(optimizer=SGD(lr=0.1), steps=2), rounds=1).run(None).x_P
    for server, local in ((falling, 0.1), (0.1, falling), (falling, falling)):
        sim = few(rs.rules.MimeLite(lr=server), rs.Local(optimizer=SGD(lr=local), steps=2), rounds=3)
        torch.testing.assert_close(sim.run(None).x_P, first, rtol=0, atol=1e-6)


def test_models_are_what_the_round_combines():
    from raysim.core.clients import Clients
    from raysim.runtime.coordinator import Coordinator

    sim = digits(rule=rs.rules.MimeLite(), rounds=2)
    coordinator = Coordinator(sim, None)
    server = coordinator.run().server
    clients = Clients(coordinator.fleet, coordinator._plan(2), coordinator.P, 30)
    seen = clients.mean(sim.rule.models, server, measure=True)
    torch.testing.assert_close(seen, sim.rule.round(clients, server).x_P, rtol=1e-5, atol=1e-6)


def test_bits_are_two_models_each_way_per_client():
    result = digits(rule=rs.rules.MimeLite(), rounds=3).run(None)
    P = result.x_P.numel()
    assert result.metrics["bits_up"].iloc[-1] == result.metrics["bits_down"].iloc[-1] == 3 * 8 * 64 * P


@pytest.mark.parametrize(
    "optimizer", [SGD(lr=0.1, momentum=0.9), rs.optimizers.Adam(lr=0.1), rs.optimizers.Adagrad(lr=0.1)]
)
def test_only_plain_sgd(optimizer):
    with pytest.raises(rs.ConfigError, match=r"on plain SGD, but Local\.optimizer is"):
        digits(local=rs.Local(optimizer=optimizer, steps=2), rule=rs.rules.MimeLite())


def test_momentum_of_one_is_refused():
    with pytest.raises(rs.ConfigError, match=r"MimeLite\.momentum must be less than 1"):
        rs.rules.MimeLite(momentum=1.0)
