"""Exact diffusion against a naive one; the optimum of unequal quadratics, eigenvalues, bits, refusals."""

import numpy as np
import pytest

import raysim as rs
from raysim.rules.diffusion import stochastic
from tests.rules.decentralized import (
    ROUNDS,
    Circle,
    Directed,
    Everyone,
    Irregular,
    N,
    OneAfterTheOther,
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


def naive(sim, lr=0.3):
    """D²: x⁺ = W (2x - x' - η (g - g')), first W (x - η g)."""
    start, clients = problem(sim)
    gradients = lambda x: np.stack([client(w)[1] for client, w in zip(clients, x, strict=True)])
    x = np.tile(start, (N, 1))
    before, g_before = None, None
    for k in range(sim.rounds):
        W = sim.rule.topology.mixing(N, k).toarray()
        W = (np.eye(N) + W) / 2 if sim.rule.lazy else W
        g = gradients(x)
        y = x - lr * g if before is None else 2 * x - before - lr * (g - g_before)
        before, g_before, x = x, g, W @ y
    return x


@pytest.mark.parametrize("topology", [Circle(), Everyone(), Irregular()], ids=repr)
def test_equals_naive_exact_diffusion(topology):
    sim = small(rs.rules.ExactDiffusion(topology))
    agree(sim, naive(sim))


def test_equals_naive_d2_with_the_matrix_itself():
    sim = small(rs.rules.ExactDiffusion(Everyone(), lazy=False))
    agree(sim, naive(sim))


def test_weight_decay_is_part_of_the_gradient():
    """It moves every client's optimum, and the common one with them."""
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, weight_decay=0.5), steps=1)
    sim = quadratic(rs.rules.ExactDiffusion(Circle()), rounds=250, lr=0.1, local=local)
    data, rows = sim.data.load(), final(sim)[1]
    x, y = data.x_train.astype(np.float64), data.y_train.astype(np.float64)
    ridge = np.linalg.solve(x.T @ x / len(x) + 0.5 * np.eye(4), x.T @ y / len(x))[:, 0]
    np.testing.assert_allclose(rows["model"], np.tile(ridge, (N, 1)), atol=1e-4)


def test_all_clients_reach_the_optimum_of_unequal_quadratics():
    outcome, rows = final(quadratic(rs.rules.ExactDiffusion(Circle()), rounds=400, lr=0.2))
    optimum = quadratic(rs.rules.ExactDiffusion(Circle()), 1, 0.2).data.load().optimum
    np.testing.assert_allclose(rows["model"], np.tile(optimum, (N, 1)), atol=2e-5)
    np.testing.assert_allclose(outcome.server.x_P.numpy(), optimum, atol=2e-5)


@pytest.mark.parametrize("topology", [Circle(), Directed(), rs.topologies.RandomRegular(degree=3)], ids=repr)
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_weights_sum_to_one_without_a_rounding_error(topology, share):
    W = topology.mixing(20, 0)
    exact = stochastic(W, share)
    np.testing.assert_array_equal(exact.data.astype(np.float32), exact.data)
    np.testing.assert_array_equal(exact.sum(1), np.ones(20))
    np.testing.assert_allclose(exact.toarray(), (1 - share) * np.eye(20) + share * W.toarray(), atol=1e-6)


def test_bits_are_one_row_over_every_edge():
    last = small(rs.rules.ExactDiffusion(Circle())).run(None).metrics.iloc[-1]
    assert last["bits_up"] == ROUNDS * 2 * N * 32 * P
    assert last["bits_down"] == N * 32 * P + last["bits_up"]


def test_models_are_what_is_combined():
    models, _, after = combined_next(small(rs.rules.ExactDiffusion(Circle())))
    W = (np.eye(N) + circulant(N, (-1, 0, 1))) / 2
    np.testing.assert_allclose(after, W @ models, rtol=1e-5, atol=1e-6)


def test_refusals():
    """A ring of an even number has the eigenvalue (1 + 2 cos π) / 3 = -1/3 exactly."""
    refused(rs.rules.ExactDiffusion(Circle(), lazy=False), "has -0.3333. Use lazy=True")
    small(rs.rules.ExactDiffusion(Irregular(), lazy=False)).load()
    for topology in (Directed(), OneAfterTheOther()):
        refused(rs.rules.ExactDiffusion(topology), "needs a symmetric mixing matrix, the same in every round")
    refused(rs.rules.ExactDiffusion(Circle()), "Local has steps=3", local=sgd(steps=3))
    momentum = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, momentum=0.9), steps=1)
    refused(rs.rules.ExactDiffusion(Circle()), "ExactDiffusion takes plain gradient steps", local=momentum)
