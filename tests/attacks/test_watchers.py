"""Attacks by those who know what honest clients are about to send."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.rules.averaging import local_update
from raysim.rules.scaffold import corrected_update
from tests.attacks.heard import ATTACKS, CLIENTS, SIZE, WATCH, heard, hostile_of, pattern, some


def lie(name, honest, clients):
    """What the attack sends, from the honest rows [H, P] in increasing order of ids, one number after the other."""
    rows = honest.astype(np.float64)
    if name == "Mimic":
        return rows[0]
    mean = sum(rows) / len(rows)
    if name == "InnerProduct":
        return -0.7 * mean
    std = np.sqrt(sum((row - mean) ** 2 for row in rows) / len(rows))
    if name == "LittleIsEnough":
        return mean - 1.5 * std
    m = clients - len(rows)
    s = np.floor(clients / 2 + 1) - m
    return mean - NormalDist().inv_cdf((clients - m - s) / (clients - m)) * std


def check(name, truth, told, hostile):
    """Honest rows to the bit, lies as the paper has them; returns how many lies there were."""
    for i, client in enumerate(truth.ids):
        if client not in hostile:
            np.testing.assert_array_equal(told.rows[i], truth.rows[i])
    liars = np.isin(truth.ids, list(hostile))
    if not liars.any():
        return 0
    expected = lie(name, truth.rows[~liars], len(liars))
    size = np.abs(truth.rows[~liars]).max()
    for row in told.rows[liars]:
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=2e-4 * size)
        np.testing.assert_array_equal(row, told.rows[liars][0])
    return int(liars.sum())


@pytest.mark.parametrize("name", WATCH)
@pytest.mark.parametrize("function", [local_update, pattern])
@pytest.mark.parametrize("cohort", [7, 8, 13])
def test_equals_naive(name, function, cohort):
    """Statistics are those of the cohort's honest clients, all alike whatever their number of examples."""
    sim = some(ATTACKS[name], cohort=cohort)
    truth, told = heard(sim.replaced(uplink=()), function), heard(sim, function)
    assert sum(check(name, a, b, hostile_of(sim)) for a, b in zip(truth, told, strict=True)) > 3


@pytest.mark.parametrize("name", WATCH)
def test_a_cohort_without_hostile_clients_is_left_alone(name):
    """Nobody lies in it, and nobody trains twice."""
    seen = []

    def counted(cohort, x_P):
        seen.append(len(cohort))
        return pattern(cohort, x_P)

    absent = next(i for i in range(CLIENTS) if i not in heard(some(), pattern, rounds=1)[0].ids)
    present = next(i for i in range(CLIENTS) if i != absent)
    for client, times in ((absent, 1), (present, 2)):
        sim = some(replace(ATTACKS[name], hostile=(client,)))
        (truth,), (told,) = (heard(s, pattern, rounds=1) for s in (sim.replaced(uplink=()), sim))
        assert (client in truth.ids) == (times == 2)
        assert np.array_equal(truth.rows, told.rows) == (times == 1)
        seen.clear()
        heard(sim, counted, rounds=1)
        assert sum(seen) == times * SIZE


@pytest.mark.parametrize("name", WATCH)
def test_where_all_are_hostile_they_send_zeros(name):
    sim = some(replace(ATTACKS[name], hostile=1.0))
    assert not any(h.rows.any() for h in heard(sim, local_update))
    result = sim.replaced(rounds=2).run(None)
    start = torch.cat([p.detach().flatten() for p in sim.initial_model().parameters()])
    assert torch.equal(result.x_P, start)


@pytest.mark.parametrize("honest", [1, 2, 5])
def test_a_hostile_majority_of_the_little_sends_a_finite_row(honest):
    """One honest client is copied; more are left behind by z of the last finite value, Φ⁻¹((h - 1) / h)."""
    hostile = tuple(range(honest, CLIENTS))
    sim = some(rs.attacks.LittleIsEnough(hostile=hostile), cohort=None)
    (truth,), (told,) = (heard(s, pattern, rounds=1) for s in (sim.replaced(uplink=()), sim))
    rows = truth.rows[:honest].astype(np.float64)
    z = NormalDist().inv_cdf((honest - 1) / honest) if honest > 1 else 0.0
    expected = rows.mean(0) - z * rows.std(0)
    np.testing.assert_allclose(told.rows[honest:], np.tile(expected, (len(hostile), 1)), rtol=1e-3, atol=1e-3)


def test_spread_of_equal_rows_is_nearly_none():
    """Rounding in the mean of squares stays far below the mean, and never makes a number that is none."""
    same = lambda cohort, x_P: torch.linspace(-3, 3, len(x_P)).repeat(len(cohort), 1)
    sim = some(rs.attacks.LittleIsEnough(hostile=0.3, z=1.0))
    for h in heard(sim, same):
        np.testing.assert_allclose(h.rows, np.tile(h.rows[0], (SIZE, 1)), atol=3e-3)
        assert np.isfinite(h.rows).all()


@pytest.mark.parametrize("name", WATCH)
def test_every_part_of_a_message_is_known_by_itself(name):
    """SCAFFOLD sends an update and a change of the control variate: two rows, each with a lie of its own."""
    sim = some(ATTACKS[name], rule=rs.rules.Scaffold())
    P = sum(p.numel() for p in sim.initial_model().parameters())
    c_P = torch.linspace(-0.1, 0.1, P)
    truth, told = (heard(s, corrected_update, c_P, "II") for s in (sim.replaced(uplink=()), sim))
    for a, b in zip(truth, told, strict=True):
        for p in range(2):
            one = lambda h, p=p: replace(h, parts=[h.parts[p]])
            assert check(name, one(a), one(b), hostile_of(sim)) > 0
        assert not np.array_equal(*(part.numpy() for part in b.parts))


@pytest.mark.parametrize("name", WATCH)
def test_a_single_number_beside_the_row_is_left_alone(name):
    count = lambda cohort, x_P: (torch.ones(len(cohort), 1), pattern(cohort, x_P))
    sim = some(ATTACKS[name])
    for a, b in zip(heard(sim.replaced(uplink=()), count), heard(sim, count), strict=True):
        assert (b.parts[0] == 1).all()
        assert check(name, *(replace(h, parts=h.parts[1:]) for h in (a, b)), hostile_of(sim)) > 0


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_sums_and_means_meet_the_same_lies(reduce):
    sim = some(ATTACKS["InnerProduct"], cohort=None)
    (told,) = heard(sim, pattern, rounds=1)
    weights = told.clients.weights[np.argsort(told.clients.ids)]
    weights = weights / weights.sum() if reduce == "mean" else np.ones(CLIENTS)
    x_P = torch.zeros(told.rows.shape[1])
    total = getattr(told.clients, reduce)(pattern, x_P).numpy()
    np.testing.assert_allclose(total, weights @ told.rows, rtol=1e-4, atol=1e-4)


# ---- to look leaves no trace -----------------------------------------------------------------------------------

KEPT = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)


@pytest.mark.parametrize("name", WATCH)
def test_rows_that_clients_keep_are_those_of_a_run_without_watching(name):
    """Momentum, hostile clients' too; and what honest clients send with it in the rounds after."""
    watched, plain = some(ATTACKS[name], local=KEPT), some(ATTACKS["SignFlip"], local=KEPT)
    hostile = hostile_of(watched)
    told, expected = heard(watched, local_update, rounds=4), heard(plain, local_update, rounds=4)
    for a, b in zip(expected, told, strict=True):
        honest = [i for i, client in enumerate(a.ids) if client not in hostile]
        np.testing.assert_array_equal(a.rows[honest], b.rows[honest])
        left, right = (h.clients.fetch("optimizer.velocity", a.ids) for h in (a, b))
        assert torch.equal(left, right)
        assert left.abs().sum(1).min() > 0
        metrics = [h.clients.measured() for h in (a, b)]
        assert metrics[0] == metrics[1]


@pytest.mark.parametrize("name", WATCH)
def test_control_variates_and_memories_of_the_honest_are_those_of_another_attack(name):
    topk = rs.compressors.Feedback(rs.compressors.TopK(fraction=0.1))
    pair = [some(ATTACKS[n], topk, rule=rs.rules.Scaffold()) for n in (name, "SignFlip")]
    P = sum(p.numel() for p in pair[0].initial_model().parameters())
    hostile = hostile_of(pair[0])
    for a, b in zip(*(heard(s, corrected_update, torch.zeros(P), "II", rounds=4) for s in pair), strict=True):
        rows = "uplink.corrected_update.{}.1.memory".format
        honest = np.array([i for i in a.ids if i not in hostile])
        for kept, ids in (("control", honest), (rows(0), honest), (rows(1), honest)):
            left, right = (h.clients.fetch(kept, ids) for h in (a, b))
            assert torch.equal(left, right)
            assert left.abs().sum() > 0
