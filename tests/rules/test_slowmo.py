"""SlowMo against a loop over its equations, with step sizes that stay and that change."""

import pytest
import torch

import raysim as rs
from raysim.core.cohorts import cohort_ids
from tests.experiments import digits
from tests.rules.flat import ByHand, average

SGD = rs.optimizers.SGD


def naive(sim, rate, alpha, beta, uniform):
    hand = ByHand(sim)
    N, x, u = len(hand.shares), hand.start.clone(), torch.zeros_like(hand.start)
    for r in range(sim.rounds):
        trained, gamma, ids = [], rate(r), cohort_ids(sim.seed, r, N, sim.cohort_size(N))
        for i in ids:
            y = x.clone()
            for part in hand.batches(i, sim.local):
                y = y - gamma * hand.gradient(i, y, part)
            trained.append(y)
        mean = average(trained, None if uniform else [hand.sizes[i] for i in ids])
        u = beta * u + (x - mean) / gamma
        x = x - alpha * gamma * u
    return x


@pytest.mark.parametrize("lr", [0.1, rs.schedules.Step(lr=0.2, every=4, factor=0.5)])
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_equals_naive(lr, weighting):
    sim = digits(
        partition=rs.partitions.Dirichlet(clients=10, alpha=0.3),
        local=rs.Local(optimizer=SGD(lr=lr), steps=2),
        rule=rs.rules.SlowMo(alpha=0.8, beta=0.6, weighting=weighting),
        cohort=5,
        rounds=20,
    )
    rate = (lambda r: lr) if isinstance(lr, float) else (lambda r: 0.2 * 0.5 ** (r // 4))
    expected = naive(sim, rate, 0.8, 0.6, weighting == "uniform")
    torch.testing.assert_close(sim.run(None).x_P, expected, rtol=1e-4, atol=1e-5)


def test_no_slow_momentum_is_fedavg():
    runs = [
        digits(rule=rule).run(None).x_P
        for rule in (rs.rules.SlowMo(beta=0.0), rs.rules.Averaging(weighting="uniform"))
    ]
    torch.testing.assert_close(*runs, rtol=1e-6, atol=1e-7)


def test_with_a_constant_step_size_it_is_heavy_ball_on_the_server():
    server = SGD(lr=0.7, momentum=0.6)
    local = rs.Local(optimizer=SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)
    runs = [
        digits(rule=rule, local=local, rounds=6).run(None).x_P
        for rule in (
            rs.rules.SlowMo(alpha=0.7, beta=0.6),
            rs.rules.Averaging(server=server, weighting="uniform"),
        )
    ]
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


def test_bits_are_one_model_each_way_per_client():
    result = digits(rule=rs.rules.SlowMo(), rounds=3).run(None)
    P = result.x_P.numel()
    assert result.metrics["bits_up"].iloc[-1] == result.metrics["bits_down"].iloc[-1] == 3 * 8 * 32 * P


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"beta": 1.0}, r"SlowMo\.beta must be less than 1"),
        ({"alpha": 0.0}, r"SlowMo\.alpha must be greater than 0"),
    ],
)
def test_bad_numbers_are_refused(fields, words):
    with pytest.raises(rs.ConfigError, match=words):
        rs.rules.SlowMo(**fields)
