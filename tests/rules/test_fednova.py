"""FedNova against the loop of its authors' code, and what it is for: the optimum, whatever clients' steps are."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core.cohorts import cohort_ids
from raysim.rules.fednova import work
from tests.experiments import digits
from tests.rules.flat import ByHand, average

SGD = rs.optimizers.SGD


def ragged(rule, optimizer, **changes):
    """Clients of different sizes, so of different numbers of steps, with batches in stored order."""
    fields = {
        "partition": rs.partitions.Dirichlet(clients=10, alpha=0.3),
        "local": rs.Local(optimizer=optimizer, epochs=1, batch_size=48, shuffle=False),
        "rule": rule,
        "cohort": None,
        "rounds": 20,
    }
    return digits(**(fields | changes))


def naive(sim, lr, rho=0.0, mu=0.0):
    """The round of the authors' code: local steps with their counters, then the normalised average."""
    hand = ByHand(sim)
    x = hand.start.clone()
    size = sim.cohort_size(len(hand.shares))
    for r in range(sim.rounds):
        direction, amount, ids = [], [], cohort_ids(sim.seed, r, len(hand.shares), size)
        for i in ids:
            y, v, counter, a, tau = x.clone(), torch.zeros_like(x), 0.0, 0.0, 0
            for part in hand.batches(i, sim.local):
                v = rho * v + hand.gradient(i, y, part) + mu * (y - x)
                y = y - lr * v
                tau += 1
                if rho:
                    counter = rho * counter + 1
                    a += counter
                elif mu:
                    a = a * (1 - lr * mu) + 1
                else:
                    a += 1
            direction.append((x - y) / a)
            amount.append(float(tau if mu else a))
        p = np.array(hand.sizes, float)[ids]
        p /= p.sum()
        x = x - float(p @ amount) * average(direction, p)
    return x


@pytest.mark.parametrize(
    ("kind", "cohort"),
    [("plain", None), ("plain", 4), ("momentum", None), ("proximal", 4), ("proximal", None)],
)
def test_equals_the_authors_loop(kind, cohort):
    rho, mu = {"plain": (0.0, 0.0), "momentum": (0.9, 0.0), "proximal": (0.0, 1.0)}[kind]
    lr = 0.01 if rho else 0.05
    sim = ragged(rs.rules.FedNova(mu=mu), SGD(lr=lr, momentum=rho), cohort=cohort)
    steps = sim.local.steps_of(np.array(ByHand(sim).sizes))
    assert len(set(steps)) > 2
    torch.testing.assert_close(sim.run(None).x_P, naive(sim, lr, rho, mu), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rho", "nesterov", "eta_mu"),
    [(0.9, False, 0.0), (0.9, True, 0.0), (0.0, False, 0.2), (0.5, False, 0.1), (0.5, True, 0.1)],
)
def test_a_is_the_sum_of_the_weights_of_the_gradients(rho, nesterov, eta_mu):
    """Autograd through the local steps themselves: (x - y) / η is linear in the gradients that come in."""
    for steps in (1, 2, 7):
        g = torch.zeros(steps, requires_grad=True, dtype=torch.float64)
        moved, v = torch.zeros((), dtype=torch.float64), 0.0  # (x - y) / η
        for k in range(steps):
            full = g[k] - eta_mu * moved
            v = rho * v + full
            moved = moved + (full + rho * v if nesterov else v)
        (weights,) = torch.autograd.grad(moved, g)
        assert work(steps, rho, nesterov, eta_mu)[steps] == pytest.approx(weights.sum().item())


def test_a_of_momentum_is_the_papers_closed_form():
    rho, tau = 0.9, 13
    assert work(tau, rho)[tau] == pytest.approx((tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho))
    assert work(5).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "optimizer", [SGD(lr=0.1), SGD(lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01)]
)
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_equal_steps_make_it_fedavg(optimizer, weighting):
    local = rs.Local(optimizer=optimizer, steps=4, batch_size=8)
    runs = [
        digits(local=local, rounds=5, rule=rule(server=SGD(lr=0.9, momentum=0.5), weighting=weighting)).run(
            None
        )
        for rule in (rs.rules.FedNova, rs.rules.Averaging)
    ]
    torch.testing.assert_close(runs[0].x_P, runs[1].x_P, rtol=1e-5, atol=1e-6)


def quadratic(rule, lr):
    """Client i takes i + 1 steps on its whole data: that many copies of them, in batches of one copy."""
    data = rs.data.Quadratic(clients=4, dimension=3, examples=4, condition=2.0, curvature_spread=0.3).load()
    order = np.concatenate([np.tile(np.arange(4 * i, 4 * i + 4), i + 1) for i in range(4)])
    x, y = data.x_train[order], data.y_train[order]
    share = np.split(np.arange(len(order)), np.cumsum([4, 8, 12]))
    result = rs.Simulation(
        data=rs.data.Arrays(x_train=x, y_train=y, x_test=x, y_test=y),
        partition=rs.partitions.Explicit(indices=share),
        model=rs.models.Linear(bias=False),
        local=rs.Local(optimizer=SGD(lr=lr), epochs=1, batch_size=4, shuffle=False),
        rule=rule,
        rounds=round(8 / lr),
        evaluate_every=10_000,
    ).run(None)
    return (result.x_P - torch.from_numpy(data.optimum)).norm().item()


def test_objective_inconsistency_is_fedavgs_alone():
    """FedAvg ends at the optimum of other weights however small the step size; FedNova's error goes with it."""
    fedavg = [quadratic(rs.rules.Averaging(weighting="uniform"), lr) for lr in (0.04, 0.02)]
    fednova = [quadratic(rs.rules.FedNova(weighting="uniform"), lr) for lr in (0.04, 0.02)]
    assert fedavg[1] > 0.8 * fedavg[0]
    assert fednova[1] < 0.6 * fednova[0]
    assert fednova[1] < 0.1 * fedavg[1]


def test_bits_are_one_model_down_and_one_number_more_up():
    result = ragged(rs.rules.FedNova(), SGD(lr=0.1), cohort=4, rounds=3).run(None)
    P = result.x_P.numel()
    assert result.metrics["bits_down"].iloc[-1] == 3 * 4 * 32 * P
    assert result.metrics["bits_up"].iloc[-1] == 3 * 4 * 32 * (P + 1)


def test_zero_steps_leave_the_model_alone():
    sim = digits(local=rs.Local(optimizer=SGD(lr=0.1), steps=0), rule=rs.rules.FedNova())
    assert torch.equal(sim.run(None).x_P, ByHand(sim).start)


class Signs(rs.optimizers.SGD):
    """Steps along signs, with SGD's fields."""

    def update(self, x_CP, grad_CP, state, lr):
        super().update(x_CP, grad_CP.sign(), state, lr)


@pytest.mark.parametrize(
    ("optimizer", "keep", "mu", "words"),
    [
        (rs.optimizers.Adam(lr=0.1), False, 0.0, "for SGD alone, but Local.optimizer is Adam"),
        (Signs(lr=0.1), False, 0.0, "for SGD alone, but Local.optimizer is Signs"),
        (SGD(lr=0.1, momentum=0.9), True, 0.0, "Set keep_state=False, or momentum=0"),
        (SGD(lr=0.1), False, 20.0, "must be below 1, got 2: .* mu below 10"),
    ],
)
def test_what_it_cannot_run_is_refused(optimizer, keep, mu, words):
    with pytest.raises(rs.ConfigError, match=words):
        digits(local=rs.Local(optimizer=optimizer, steps=2, keep_state=keep), rule=rs.rules.FedNova(mu=mu))


def test_negative_mu_is_refused():
    with pytest.raises(rs.ConfigError, match=r"FedNova\.mu must be greater than or equal to 0, got -1"):
        rs.rules.FedNova(mu=-1)
