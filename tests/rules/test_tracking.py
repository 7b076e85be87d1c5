"""Gradient tracking against a naive one; the tracked mean, the optimum of unequal quadratics, bits, refusals."""

import numpy as np
import pytest

import raysim as rs
from tests.rules.decentralized import (
    ALL,
    ROUNDS,
    Circle,
    Directed,
    N,
    P,
    agree,
    circulant,
    combined_next,
    final,
    problem,
    quadratic,
    refused,
    sgd,
    small,
)


def naive(sim, rate):
    """x⁺ = W (x - η y), y⁺ = W y + g(x⁺) - g(x), y⁰ = g(x⁰); ``rate(k)`` is η."""
    start, clients = problem(sim)
    x = np.tile(start, (N, 1))
    g = np.stack([client(w)[1] for client, w in zip(clients, x, strict=True)])
    y = g
    for k in range(sim.rounds):
        W = sim.rule.topology.mixing(N, k).toarray()
        x = W @ (x - rate(k) * y)
        before, g = g, np.stack([client(w)[1] for client, w in zip(clients, x, strict=True)])
        y = W @ y + g - before
    return x


@pytest.mark.parametrize("topology", ALL, ids=repr)
def test_equals_naive_gradient_tracking(topology):
    sim = small(rs.rules.GradientTracking(topology))
    agree(sim, naive(sim, lambda k: 0.3))


def test_a_schedule_gives_each_round_its_step_size():
    lr = rs.schedules.Step(lr=0.4, every=7, factor=0.5)
    sim = small(rs.rules.GradientTracking(Circle()), local=sgd(lr))
    agree(sim, naive(sim, lambda k: 0.4 * 0.5 ** (k // 7)))


def test_the_trackers_mean_is_the_gradients_mean():
    """Also with mini-batches: mixing keeps the mean, and every change of a gradient is added once."""
    rows = final(small(rs.rules.GradientTracking(Directed()), local=sgd(0.1, batch_size=2)))[1]
    np.testing.assert_allclose(rows["tracker"].mean(0), rows["gradient"].mean(0), atol=1e-5)


@pytest.mark.parametrize("topology", [Circle(), Directed()], ids=repr)
def test_all_clients_reach_the_optimum_of_unequal_quadratics(topology):
    outcome, rows = final(quadratic(rs.rules.GradientTracking(topology), rounds=400, lr=0.15))
    optimum = quadratic(rs.rules.GradientTracking(topology), 1, 0.15).data.load().optimum
    np.testing.assert_allclose(rows["model"], np.tile(optimum, (N, 1)), atol=1e-4)
    np.testing.assert_allclose(outcome.server.x_P.numpy(), optimum, atol=1e-4)


def test_bits_are_two_rows_over_every_edge():
    last = small(rs.rules.GradientTracking(Circle())).run(None).metrics.iloc[-1]
    assert last["bits_up"] == ROUNDS * 2 * (2 * N) * 32 * P
    assert last["bits_down"] == N * 32 * P + last["bits_up"]


def test_models_are_what_is_combined():
    models, _, after = combined_next(small(rs.rules.GradientTracking(Circle())))
    np.testing.assert_allclose(after, circulant(N, (-1, 0, 1)) @ models, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("local", "words"),
    [
        (sgd(steps=2), "GradientTracking takes one gradient a round, but Local has steps=2"),
        (sgd(steps=0), "Local has steps=0"),
        (rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), epochs=1), "Local has epochs=1"),
        (rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, momentum=0.9), steps=1), "keeps state (momentum, say)"),
        (rs.Local(optimizer=rs.optimizers.Adam(lr=0.1), steps=1), "keeps state"),
        (
            rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, weight_decay=0.1), steps=1),
            "without momentum or weight decay",
        ),
    ],
)
def test_refusals(local, words):
    refused(rs.rules.GradientTracking(Circle()), words, local=local)
