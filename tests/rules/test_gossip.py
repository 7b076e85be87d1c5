"""Gossip, Gossip-PGA and Gossip-AGA against naive ones, their special cases, contraction, bits, actors, resuming."""

import math
import os
import signal

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core.clients import Clients
from raysim.core.server import Server
from raysim.rules.own import adapt, begin
from raysim.runtime.coordinator import Coordinator
from tests.experiments import digits, same
from tests.rules.decentralized import (
    ALL,
    ROUNDS,
    Circle,
    Everyone,
    N,
    Nobody,
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


def naive(sim, steps, lr=0.3):
    """x_j trains, then W; every H-th round the mean instead. Combine-then-adapt: W on what was there before."""
    start, clients = problem(sim)
    x = [start] * N
    for k in range(sim.rounds):
        y = [trained(client, w, lr, steps)[0] for client, w in zip(clients, x, strict=True)]
        W = sim.rule.topology.mixing(N, k).toarray()
        if sim.rule.order == "combine-then-adapt":
            x = [sum(W[i, j] * x[j] for j in range(N)) + y[i] - x[i] for i in range(N)]
        elif sim.rule.period and (k + 1) % sim.rule.period == 0:
            x = [sum(y) / N] * N
        else:
            x = [sum(W[i, j] * y[j] for j in range(N)) for i in range(N)]
    return np.stack(x)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("topology", ALL, ids=repr)
@pytest.mark.parametrize("order", ["adapt-then-combine", "combine-then-adapt"])
def test_equals_naive_gossip(order, topology, steps):
    sim = small(rs.rules.Gossip(topology, order=order), local=sgd(steps=steps))
    agree(sim, naive(sim, steps))


@pytest.mark.parametrize("period", [1, 3, 7])
def test_equals_naive_gossip_pga(period):
    sim = small(rs.rules.Gossip(Circle(), period=period))
    agree(sim, naive(sim, 1))


def test_other_optimizers_and_mini_batches_stay_in_their_own_rows():
    """No links: what every client has in the end is what it gets from the same rounds alone."""
    local = rs.Local(
        optimizer=rs.optimizers.SGD(lr=0.1, momentum=0.9), epochs=1, batch_size=4, keep_state=True
    )
    together = final(small(rs.rules.Gossip(Nobody()), local=local))[1]
    in_one_block = final(
        small(rs.rules.Gossip(Nobody()), local=local, execution=rs.Execution(block=6, form="loop"))
    )[1]
    np.testing.assert_allclose(together["model"], in_one_block["model"], rtol=1e-4, atol=1e-5)
    assert len(np.unique(together["model"][:, 0])) == N


@pytest.mark.parametrize("rule", [rs.rules.Gossip(Circle(), period=1), rs.rules.Gossip(Everyone())], ids=repr)
@pytest.mark.parametrize("steps", [1, 2])
def test_period_one_and_the_complete_graph_are_averaging(rule, steps):
    averaging = small(rs.rules.Averaging(weighting="uniform"), local=sgd(steps=steps)).run(None)
    torch.testing.assert_close(
        small(rule, local=sgd(steps=steps)).run(None).x_P, averaging.x_P, rtol=1e-5, atol=1e-5
    )


def test_without_links_and_with_a_period_it_is_local_sgd():
    averaging = small(rs.rules.Averaging(weighting="uniform"), local=sgd(steps=5), rounds=4).run(None)
    periodic = small(rs.rules.Gossip(Nobody(), period=5), rounds=20).run(None)
    torch.testing.assert_close(periodic.x_P, averaging.x_P, rtol=1e-5, atol=1e-5)


def scatter(cohort, rows_NP):
    cohort.state.rows("model", rows_NP[0]).copy_(rows_NP[torch.from_numpy(cohort.ids_C)])


def distance(rows_NP):
    return np.linalg.norm(rows_NP - rows_NP.mean(0))


def mixed_only(start_NP, rounds):
    """Models after each of some rounds of gossip without training."""
    coordinator = Coordinator(small(rs.rules.Gossip(Circle()), local=sgd(steps=0)), None)
    server = coordinator._prepare()
    seen = []
    for round in range(1, rounds + 1):
        clients = Clients(coordinator.fleet, coordinator._plan(round), coordinator.P)
        if round == 1:
            clients.run(scatter, torch.from_numpy(start_NP.astype(np.float32)))
        server = Server(coordinator.simulation.rule.round(clients, server).x_P, round + 1)
        seen.append(coordinator.fleet.fetch("model", np.arange(N)).numpy().astype(np.float64))
    return seen


def test_consensus_distance_contracts_by_beta():
    """Its square by β² a round and more; by exactly that where models differ along the slowest eigenvector."""
    W = circulant(N, (-1, 0, 1))
    value, vector = np.linalg.eigh(W - 1 / N)
    slowest = np.abs(value).argmax()
    beta = abs(value[slowest])
    rng = np.random.Generator(np.random.PCG64(0))
    anything = rng.standard_normal((N, P))
    along = np.outer(vector[:, slowest], np.ones(P))
    for start, exact in ((anything, False), (along, True)):
        before = start
        for after in mixed_only(start, 6):
            ratio = distance(after) ** 2 / distance(before) ** 2
            assert ratio <= beta**2 + 1e-4
            assert not exact or ratio == pytest.approx(beta**2, abs=1e-4)
            np.testing.assert_allclose(after.mean(0), start.mean(0), atol=1e-5)
            before = after


def test_unequal_quadratics_leave_a_bias_at_constant_step_size():
    """What gradient tracking and exact diffusion do away with."""
    outcome, rows = final(quadratic(rs.rules.Gossip(Circle()), rounds=400, lr=0.2))
    optimum = quadratic(rs.rules.Gossip(Circle()), 1, 0.2).data.load().optimum
    assert np.abs(rows["model"] - optimum).max() > 0.05
    assert np.abs(outcome.server.x_P.numpy() - optimum).max() > 0.005


# ---- Gossip-AGA ----------------------------------------------------------------------------------------------


def naive_aga(sim, lr=0.3):
    rule, (start, clients) = sim.rule, problem(sim)
    x, periods = [start] * N, []
    H, C, F_init = rule.period, 0, None
    for k in range(sim.rounds):
        pairs = [trained(client, w, lr, 1) for client, w in zip(clients, x, strict=True)]
        y, F = [w for w, _ in pairs], np.mean([loss for _, loss in pairs])
        W = rule.topology.mixing(N, k).toarray()
        periods.append(H)
        C += 1
        if C < H:
            x = [sum(W[i, j] * y[j] for j in range(N)) for i in range(N)]
            continue
        x, C = [sum(y) / N] * N, 0
        F_init = F if F_init is None else F_init
        if k < rule.warmup:
            F_init = (F_init + F) / 2
        else:
            H = math.ceil(F_init / F * rule.period)
    return np.stack(x), periods


@pytest.mark.parametrize(("period", "warmup"), [(2, 0), (4, 0), (2, 7), (3, 100)])
def test_equals_naive_gossip_aga(period, warmup):
    sim = small(rs.rules.GossipAGA(Circle(), period=period, warmup=warmup), rounds=30)
    expected, periods = naive_aga(sim)
    agree(sim, expected)
    assert sim.run(None).metrics["period"].iloc[1:].tolist() == periods
    assert warmup == 100 or len(set(periods)) > 1


def test_a_loss_of_zero_leaves_the_period():
    """One class: every loss is exactly zero."""
    data = rs.data.Arrays(
        x_train=np.zeros((12, 2), np.float32),
        y_train=np.zeros(12, np.int64),
        x_test=np.zeros((2, 2), np.float32),
        y_test=np.zeros(2, np.int64),
    )
    sim = small(rs.rules.GossipAGA(Circle(), period=2), data=data, partition=rs.partitions.IID(clients=4))
    assert set(sim.run(None).metrics["period"].iloc[1:]) == {2}


# ---- the ledger, refusals, probes ----------------------------------------------------------------------------


def test_bits_on_a_ring_by_hand():
    """The start once; then a row over each of 2 N edges; in rounds of averaging a row up and a row down each."""
    row = 32 * P
    plain = small(rs.rules.Gossip(Circle()), rounds=6).run(None).metrics.iloc[-1]
    assert plain["bits_up"] == 6 * 2 * N * row
    assert plain["bits_down"] == N * row + 6 * 2 * N * row
    periodic = small(rs.rules.Gossip(Circle(), period=3), rounds=6).run(None).metrics.iloc[-1]
    assert periodic["bits_up"] == (4 * 2 * N + 2 * N) * row
    assert periodic["bits_down"] == N * row + (4 * 2 * N + 2 * N) * row
    alone = small(rs.rules.Gossip(Nobody()), rounds=6).run(None).metrics.iloc[-1]
    assert (alone["bits_up"], alone["bits_down"]) == (0, N * row)


def test_refusals():
    with pytest.raises(rs.ConfigError, match=r"Gossip.period needs order='adapt-then-combine', got period=4"):
        rs.rules.Gossip(Circle(), order="combine-then-adapt", period=4)
    refused(rs.rules.Gossip(Circle()), "needs every client in every round", cohort=3)
    refused(rs.rules.GossipAGA(Circle()), "Local.steps is 0", local=sgd(steps=0))
    rules = (rs.rules.Gossip, rs.rules.GossipAGA, rs.rules.ChocoSGD)
    for rule in (*rules, rs.rules.GradientTracking, rs.rules.ExactDiffusion):
        wrong = rule(rs.topologies.ExplicitMixing(matrix=((0.5, 0.5), (0.5, 0.5))))
        refused(wrong, "ExplicitMixing.matrix is 2 x 2, but there are 6 clients")


def test_models_are_what_is_combined():
    W = circulant(N, (-1, 0, 1))
    models, _, after = combined_next(small(rs.rules.Gossip(Circle())))
    np.testing.assert_allclose(after, W @ models, rtol=1e-5, atol=1e-6)
    models, before, _ = combined_next(small(rs.rules.Gossip(Circle(), order="combine-then-adapt")))
    np.testing.assert_array_equal(models, before)


# ---- actors, blocks, resuming: all rules of this family ------------------------------------------------------

RING, DIRECTED, PEER = (
    rs.topologies.Ring(),
    rs.topologies.StaticExponential(),
    rs.topologies.OnePeerExponential(),
)
MOMENTUM = rs.Local(
    optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True
)
ONE_STEP = sgd(lr=0.1, batch_size=8)
TOPK = rs.compressors.TopK(fraction=0.1)
FAMILY = {
    "gossip": (rs.rules.Gossip(RING), MOMENTUM),
    "varying": (rs.rules.Gossip(PEER, period=3), MOMENTUM),
    "d-psgd": (rs.rules.Gossip(DIRECTED, order="combine-then-adapt"), MOMENTUM),
    "aga": (rs.rules.GossipAGA(RING, period=2), MOMENTUM),
    "choco": (rs.rules.ChocoSGD(RING, compressor=TOPK, consensus=0.3), MOMENTUM),
    "tracking": (rs.rules.GradientTracking(DIRECTED), ONE_STEP),
    "diffusion": (rs.rules.ExactDiffusion(RING), ONE_STEP),
}


def family(name):
    rule, local = FAMILY[name]
    return digits(rule=rule, local=local, cohort=None, rounds=6)


@pytest.mark.parametrize("name", FAMILY)
def test_stop_and_resume_equals_one_run(name, tmp_path):
    sim = family(name)
    expected = sim.run(None)
    sim.replaced(rounds=3).run(tmp_path / "run")
    assert same(expected, rs.resume(tmp_path / "run", sim))
    assert rs.Simulation.from_yaml(sim.to_yaml()) == sim


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_resume_on_another_number_of_actors(tmp_path):
    sim = family("aga")
    expected = sim.run(None)
    on = lambda actors: rs.Placement(actors=actors, cpus_per_actor=0.5)
    sim.replaced(rounds=3, placement=on(3)).run(tmp_path / "run")
    assert same(expected, rs.resume(tmp_path / "run", sim.replaced(placement=on(2))))


class KillingGossip(rs.rules.Gossip):
    """Gossip during which a client actor is killed, once, between training and mixing."""

    def round(self, clients, server):
        if str(server.round) == os.environ["RAYSIM_TEST_ROUND"] and not os.path.exists(
            os.environ["RAYSIM_TEST_MARK"]
        ):
            import ray

            open(os.environ["RAYSIM_TEST_MARK"], "w").close()
            begin(clients, server)
            clients.run(adapt)
            os.kill(ray.get(clients._fleet.actors[1].pid.remote()), signal.SIGKILL)
        return super().round(clients, server)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("at", [0, 2])
def test_rows_of_a_round_half_done_are_forgotten(tmp_path, monkeypatch, at):
    """Also before the first checkpoint, where the other actors' clients have trained already."""
    monkeypatch.setenv("RAYSIM_TEST_MARK", str(tmp_path / "killed"))
    monkeypatch.setenv("RAYSIM_TEST_ROUND", str(at))
    sim = family("gossip").replaced(rounds=3)
    expected = sim.run(None)
    (tmp_path / "run").mkdir()
    placement = rs.Placement(actors=2, cpus_per_actor=0.5)
    killing = sim.replaced(rule=KillingGossip(RING), placement=placement, checkpoint_every=1)
    outcome = Coordinator(
        killing, tmp_path / "run"
    ).run()  # in this process, so that the rule sees the actors
    assert (tmp_path / "killed").exists()
    assert torch.equal(outcome.server.x_P, expected.x_P)


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
@pytest.mark.parametrize("name", ["d-psgd", "choco", "tracking", "diffusion"])
def test_forms_agree(name, form):
    sim = family(name).replaced(execution=rs.Execution(form=form, block=7))
    torch.testing.assert_close(sim.run(None).x_P, family(name).run(None).x_P, rtol=1e-3, atol=1e-4)


def test_topology_of_a_rule_is_called_with_the_round():
    """A varying topology's matrices come in the order of rounds, also after the period's averages."""
    sim = small(rs.rules.Gossip(ALL[-1], period=4), rounds=ROUNDS)
    agree(sim, naive(sim, 1))
