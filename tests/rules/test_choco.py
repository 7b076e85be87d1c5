"""CHOCO-SGD against a naive one in the order of the authors' code; without compression it is D-PSGD."""

import numpy as np
import pytest
import torch

import raysim as rs
from tests.rules.decentralized import (
    FIXED,
    ROUNDS,
    Circle,
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
    trained,
)


def top(v, k):
    """The k largest in magnitude, one after the other."""
    kept = np.zeros_like(v)
    for _ in range(k):
        i = np.abs(np.where(kept == 0, v, 0)).argmax()
        kept[i] = v[i]
    return kept


def naive(sim, k, steps, lr=0.3):
    """Every neighbour's estimate kept one by one; the weighted sums formed anew in every round."""
    start, clients = problem(sim)
    W, gamma = sim.rule.topology.mixing(N, 0).toarray(), sim.rule.consensus
    x, estimate = [start.copy() for _ in range(N)], [np.zeros(P) for _ in range(N)]
    for _ in range(sim.rounds):
        x = [trained(client, w, lr, steps)[0] for client, w in zip(clients, x, strict=True)]
        x = [x[i] + gamma * sum(W[i, j] * (estimate[j] - estimate[i]) for j in range(N)) for i in range(N)]
        q = [x[i] - estimate[i] if k is None else top(x[i] - estimate[i], k) for i in range(N)]
        estimate = [estimate[i] + q[i] for i in range(N)]
    return np.stack(x), np.stack(estimate), W


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("topology", FIXED, ids=repr)
@pytest.mark.parametrize(("fraction", "gamma"), [(None, 0.9), (None, 1.0), (0.28, 0.4), (0.06, 0.1)])
def test_equals_naive_choco(topology, fraction, gamma, steps):
    compressor = None if fraction is None else rs.compressors.TopK(fraction=fraction)
    sim = small(rs.rules.ChocoSGD(topology, compressor=compressor, consensus=gamma), local=sgd(steps=steps))
    expected, estimate, W = naive(sim, fraction and max(1, round(fraction * P)), steps)
    agree(sim, expected)
    rows = final(sim)[1]
    np.testing.assert_allclose(rows["estimate"], estimate, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rows["mixed"], W @ estimate, rtol=1e-5, atol=1e-5)


def test_without_compression_it_is_d_psgd():
    choco = final(small(rs.rules.ChocoSGD(Circle(), consensus=1.0)))[1]["model"]
    plain = final(small(rs.rules.Gossip(Circle(), order="combine-then-adapt")))[1]["model"]
    np.testing.assert_allclose(choco, plain, rtol=1e-5, atol=1e-5)


def test_consensus_is_reached_through_compressed_messages():
    """With falling step sizes all clients end near the optimum, one number in four sent."""
    compressor = rs.compressors.TopK(fraction=0.25)
    lr = rs.schedules.Step(lr=0.2, every=80, factor=0.2)
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=lr), steps=1)
    rule = rs.rules.ChocoSGD(Circle(), compressor=compressor, consensus=0.4)
    outcome, rows = final(quadratic(rule, rounds=240, lr=0.2, local=local))
    optimum = quadratic(rule, 1, 0.2).data.load().optimum
    assert np.abs(outcome.server.x_P.numpy() - optimum).max() < 0.03
    assert np.abs(rows["model"] - optimum).max() < 0.08


def test_bits_are_the_compressors_over_every_edge():
    """k = round(0.28 x 18) = 5 numbers of 32 bits with positions of 5 bits, over 2 N edges; the start once."""
    rule = rs.rules.ChocoSGD(Circle(), compressor=rs.compressors.TopK(fraction=0.28))
    last = small(rule).run(None).metrics.iloc[-1]
    assert last["bits_up"] == ROUNDS * 2 * N * 5 * (32 + 5)
    assert last["bits_down"] == N * 32 * P + last["bits_up"]
    assert last["message_bits"] == pytest.approx(5 * 37)
    full = small(rs.rules.ChocoSGD(Circle())).run(None).metrics.iloc[-1]
    assert full["bits_up"] == ROUNDS * 2 * N * 32 * P


class ById(rs.compressors.TopK):
    """Sends everything and says it took as many bits as the first number of the row: 100 times the client's id."""

    def apply(self, rows_CP, sender):
        return rows_CP, rows_CP[:, 0].round().double()


def test_each_clients_bits_are_counted_for_its_own_edges():
    """A star: the centre's row goes to everybody, a leaf's to the centre alone."""
    from raysim.core.clients import Clients
    from raysim.runtime.coordinator import Coordinator

    rule = rs.rules.ChocoSGD(rs.topologies.Star(), compressor=ById(fraction=0.5))
    coordinator = Coordinator(small(rule, local=sgd(steps=0)), None)
    server = coordinator._prepare()
    clients = Clients(coordinator.fleet, coordinator._plan(0), coordinator.P)
    clients.run(_hundreds)
    rule.round(clients, server)
    assert clients.bits_up == (N - 1) * 700 + sum(100 * i + 700 for i in range(1, N))


def _hundreds(cohort):
    ids_C = torch.from_numpy(cohort.ids_C).float()
    cohort.state.rows("model", torch.zeros(P)).copy_((100 * ids_C + 700)[:, None].expand(-1, P))


def test_models_are_what_is_combined():
    """x + γ (s - x̂), with the estimates from before."""
    sim = small(rs.rules.ChocoSGD(Circle(), consensus=0.5))
    models, before, after = combined_next(sim)
    W = circulant(N, (-1, 0, 1))
    np.testing.assert_allclose(after, models + 0.5 * (W @ before - before), rtol=1e-5, atol=1e-5)


def test_refusals():
    refused(rs.rules.ChocoSGD(OneAfterTheOther()), "same mixing matrix in every round")
    for gamma in (0.0, 1.5):
        with pytest.raises(rs.ConfigError, match=r"ChocoSGD.consensus must be"):
            rs.rules.ChocoSGD(Circle(), consensus=gamma)
