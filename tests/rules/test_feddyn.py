"""FedDyn against a loop over its equations; its duals, and where it comes to rest."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core.cohorts import cohort_ids
from raysim.runtime.coordinator import Coordinator
from tests.experiments import digits
from tests.rules.flat import ByHand, average

SGD = rs.optimizers.SGD


def naive(sim, alpha, lr, scaled):
    """Every client's dual in a list; the mean over all clients taken anew in every round."""
    hand = ByHand(sim)
    N = len(hand.shares)
    relative = np.array(hand.sizes) / np.mean(hand.sizes) if scaled else np.ones(N)
    h = [torch.zeros_like(hand.start) for _ in range(N)]
    average_model = cloud = hand.start.clone()
    for r in range(sim.rounds):
        trained = []
        for i in cohort_ids(sim.seed, r, N, sim.cohort_size(N)):
            a, y = alpha / relative[i], cloud.clone()
            for part in hand.batches(i, sim.local):
                y = y - lr * (hand.gradient(i, y, part) + a * h[i] + a * (y - cloud))
            h[i] = h[i] + y - cloud
            trained.append(y)
        average_model = average(trained)
        cloud = average_model + average(h)
    return average_model, h


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_equals_naive_with_partial_participation(weighting, form):
    sim = digits(
        partition=rs.partitions.Dirichlet(clients=12, alpha=0.5),
        local=rs.Local(optimizer=SGD(lr=0.1), steps=3),
        rule=rs.rules.FedDyn(alpha=0.1, weighting=weighting),
        cohort=4,
        rounds=20,
        execution=rs.Execution(form=form, block=3),
    )
    coordinator = Coordinator(sim, None)
    x_P = coordinator.run().server.x_P
    expected, h = naive(sim, 0.1, 0.1, weighting == "examples")
    # ReLU units that switch at rounding's whim: float32 agrees to four digits after 60 steps
    torch.testing.assert_close(x_P, expected, rtol=1e-4, atol=1e-5)
    duals = coordinator.fleet.fetch("dual", np.arange(12))
    torch.testing.assert_close(duals, torch.stack(h), rtol=1e-3, atol=1e-5)


def test_server_follows_the_mean_of_all_duals():
    sim = digits(rule=rs.rules.FedDyn(alpha=0.1), rounds=6)
    coordinator = Coordinator(sim, None)
    server = coordinator.run().server
    seen = np.unique(np.concatenate([cohort_ids(sim.seed, r, 30, 8) for r in range(6)]))
    total = coordinator.fleet.fetch("dual", seen).sum(0)
    torch.testing.assert_close(server.state["dual"], total / 30, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(server.state["cloud"], server.x_P + total / 30, rtol=1e-4, atol=1e-6)


def quadratic(weighting, steps, rounds, lr=0.5):
    """Three clients with three, two and one of six owners' quadratics, which have different curvatures."""
    data = rs.data.Quadratic(clients=6, dimension=4, examples=6, condition=3.0, curvature_spread=0.2)
    owners = ([0, 1, 2], [3, 4], [5])
    share = [np.concatenate([np.arange(6 * o, 6 * o + 6) for o in some]) for some in owners]
    return rs.Simulation(
        data=data,
        partition=rs.partitions.Explicit(indices=share),
        model=rs.models.Linear(bias=False),
        local=rs.Local(optimizer=SGD(lr=lr), steps=steps),
        rule=rs.rules.FedDyn(alpha=0.5, weighting=weighting),
        rounds=rounds,
        evaluate_every=rounds,
    )


def test_dual_is_minus_the_gradient_over_alpha_at_the_local_optimum():
    sim = quadratic("uniform", steps=100, rounds=1)
    coordinator, hand = Coordinator(sim, None), ByHand(sim)
    coordinator.run()
    for i, h in enumerate(coordinator.fleet.fetch("dual", np.arange(3))):
        y = hand.start + h  # the first round's dual is all the client moved
        torch.testing.assert_close(h, -hand.gradient(i, y) / 0.5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [2, 20])
def test_rests_at_the_optimum_of_heterogeneous_quadratics(steps):
    """Of all examples where α follows the number of examples, of all clients where it does not; FedAvg at neither."""
    data = quadratic("examples", steps, 1).data.load()
    x, y = torch.from_numpy(data.x_train).double(), torch.from_numpy(data.y_train).double()
    weight = torch.tensor([1 / 3] * 18 + [1 / 2] * 12 + [1.0] * 6).double().sqrt()[:, None]
    optimum = {
        "examples": torch.from_numpy(data.optimum).float(),
        "uniform": torch.linalg.lstsq(x * weight, y * weight).solution.flatten().float(),
    }
    assert (optimum["examples"] - optimum["uniform"]).norm() > 0.05
    for weighting, expected in optimum.items():
        sim = quadratic(weighting, steps, rounds=300)
        torch.testing.assert_close(sim.run(None).x_P, expected, rtol=1e-4, atol=1e-5)
    fedavg = sim.replaced(rule=rs.rules.Averaging()).run(None).x_P
    assert (fedavg - optimum["examples"]).norm() > 1e-3


def test_models_are_what_the_round_combines():
    sim = digits(rule=rs.rules.FedDyn(alpha=0.1), rounds=2)
    coordinator = Coordinator(sim, None)
    server = coordinator.run().server
    from raysim.core.clients import Clients

    clients = Clients(coordinator.fleet, coordinator._plan(2), coordinator.P, 30)
    seen = clients.mean(sim.rule.models, server, uniform=True, measure=True)
    torch.testing.assert_close(seen, sim.rule.round(clients, server).x_P, rtol=1e-5, atol=1e-6)


def test_bits_are_one_model_each_way_per_client():
    result = digits(rule=rs.rules.FedDyn(), rounds=3).run(None)
    P = result.x_P.numel()
    assert result.metrics["bits_up"].iloc[-1] == result.metrics["bits_down"].iloc[-1] == 3 * 8 * 32 * P


@pytest.mark.parametrize("alpha", [0, -0.1])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(rs.ConfigError, match=r"FedDyn\.alpha must be greater than 0"):
        rs.rules.FedDyn(alpha=alpha)
