"""The ledger against dp-accounting's own composition, closed forms, and what neighbours can really be told apart by."""

import math
import sys
import time

import dp_accounting as dp
import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import norm

from raysim.privacy import accounting

REPLACE = dp.NeighboringRelation.REPLACE_ONE
DELTA = 1e-5


def public(sigma, rounds, clients=6):
    state = {}
    for _ in range(rounds):
        accounting.spend(state, sigma, np.arange(clients), clients)
    return state


def hidden(sigma, cohort, clients, rounds):
    state = {}
    for _ in range(rounds):
        accounting.spend_hidden(state, sigma, cohort, clients)
    return state


def composed(event, rounds):
    accountant = dp.rdp.RdpAccountant(neighboring_relation=REPLACE)
    for _ in range(rounds):
        accountant.compose(event)
    return accountant


@pytest.mark.parametrize(("sigma", "rounds"), [(0.25, 1), (0.5, 3), (1.0, 10), (4.0, 100), (50.0, 7)])
def test_public_cohorts_equal_the_package_and_the_formula(sigma, rounds):
    spent = accounting.epsilon(public(sigma, rounds), DELTA)
    assert spent == pytest.approx(composed(dp.GaussianDpEvent(sigma), rounds).get_epsilon(DELTA), rel=1e-9)
    a = dp.rdp.RdpAccountant().orders[1:]  # the formula is not for orders near 1
    by_hand = rounds * a / (2 * sigma**2) + np.log1p(-1 / a) - np.log(DELTA * a) / (a - 1)
    assert spent == pytest.approx(by_hand.min(), rel=1e-9)


@pytest.mark.parametrize(("sigma", "rounds"), [(0.5, 1), (1.0, 4), (5.0, 50)])
def test_public_cohorts_bound_the_exact_epsilon_from_above(sigma, rounds):
    """n releases of a Gaussian mechanism are one of noise σ/√n, whose exact ε is known."""
    exact = dp.get_epsilon_gaussian(sigma / math.sqrt(rounds), DELTA)
    assert exact <= accounting.epsilon(public(sigma, rounds), DELTA) <= 1.2 * exact


@pytest.mark.parametrize(
    ("sigma", "cohort", "clients", "rounds"), [(0.5, 10, 1000, 2), (1.0, 50, 5000, 3), (2.0, 5, 100, 3)]
)
def test_hidden_cohorts_equal_the_package(sigma, cohort, clients, rounds):
    event = dp.SampledWithoutReplacementDpEvent(clients, cohort, dp.GaussianDpEvent(sigma))
    spent = accounting.epsilon(hidden(sigma, cohort, clients, rounds), DELTA)
    assert spent == pytest.approx(composed(event, rounds).get_epsilon(DELTA), rel=1e-9)
    assert spent < accounting.epsilon(public(sigma, rounds), DELTA)


@pytest.mark.parametrize(("sigma", "cohort", "clients"), [(0.01, 5, 13), (0.3, 9, 10), (50.0, 9, 10)])
def test_hiding_the_cohort_never_costs_more(sigma, cohort, clients):
    """Where the bound with sampling is the worse one, that without holds too: order by order the smaller is taken."""
    release = dp.GaussianDpEvent(sigma)
    event = dp.SampledWithoutReplacementDpEvent(clients, cohort, release)
    many, few = (composed(dp.SelfComposedDpEvent(e, 4), 1) for e in (release, event))
    assert few.get_epsilon(DELTA) > many.get_epsilon(DELTA)
    spent = accounting.epsilon(hidden(sigma, cohort, clients, 4), DELTA)
    best = dp.rdp.compute_epsilon(many.orders, np.minimum(many.rdp, few.rdp), DELTA)[0]
    assert spent == pytest.approx(best, rel=1e-9)
    assert spent <= accounting.epsilon(public(sigma, 4), DELTA) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("z", "q"), [(0.5, 1.0), (1.0, 1.0), (3.0, 1.0), (1.0, 0.1), (2.0, 0.05), (4.0, 0.5)]
)
def test_a_client_at_one_end_instead_of_the_other_is_no_easier_to_tell(z, q):
    """Rows of length S: the client has +S or, as all others, -S; the noise is z S. One round, by integration."""
    clients = 1000
    cohort = round(q * clients)
    sigma = z / 2  # in units of what the sum changes by, 2S
    state = public(sigma, 1) if q == 1 else hidden(sigma, cohort, clients, 1)
    spent = accounting.epsilon(state, DELTA)
    at = np.linspace(-40 * z - 4, 40 * z + 4, 400_001)  # in units of S
    other = norm.pdf(at, 0, z)
    mine = (1 - q) * other + q * norm.pdf(at, 2, z)
    for p, r in ((mine, other), (other, mine)):
        told = trapezoid(np.maximum(p - math.exp(spent) * r, 0), at)
        assert told <= DELTA
    if q == 1:  # and the bound is not idle: with noise counted in units of S it would be broken
        wrong = accounting.epsilon(public(z, 1), DELTA)
        assert trapezoid(np.maximum(mine - math.exp(wrong) * other, 0), at) > DELTA


def test_epsilon_is_that_of_the_client_who_took_part_most():
    state = {}
    for ids in ([0, 1], [1, 2], [1, 0], [3, 2]):
        accounting.spend(state, 2.0, np.array(ids), 5)
    assert state["rho"].tolist() == [2 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0]
    assert accounting.epsilon(state, DELTA) == accounting.epsilon(public(2.0, 3), DELTA)


def test_rounds_of_all_kinds_add_up():
    """A change of the noise or of the cohort on the way is a further kind of round."""
    state = {}
    accounting.spend(state, 3.0, np.arange(4), 100)
    for sigma, cohort, times in ((1.0, 4, 2), (2.0, 4, 3), (1.0, 5, 1), (1.0, 4, 2)):
        for _ in range(times):
            accounting.spend_hidden(state, sigma, cohort, 100)
    assert state["hidden"].tolist() == [[1, 4, 100, 4], [2, 4, 100, 3], [1, 5, 100, 1]]
    accountant = composed(dp.GaussianDpEvent(3.0), 1)
    for sigma, cohort, times in ((1.0, 4, 4), (2.0, 4, 3), (1.0, 5, 1)):
        event = dp.SampledWithoutReplacementDpEvent(100, cohort, dp.GaussianDpEvent(sigma))
        accountant.compose(dp.SelfComposedDpEvent(event, times))
    assert accounting.epsilon(state, DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-9)


def test_releases_on_one_cohort_are_one():
    event = dp.ComposedDpEvent([dp.GaussianDpEvent(s) for s in (0.5, 0.5, 4.0)])
    event = dp.SampledWithoutReplacementDpEvent(1000, 20, event)
    spent = accounting.epsilon(hidden(accounting.together(0.5, 0.5, 4.0), 20, 1000, 2), DELTA)
    assert spent == pytest.approx(composed(event, 2).get_epsilon(DELTA), rel=1e-9)


def test_the_state_given_is_not_written():
    state = public(1.0, 1) | hidden(1.0, 2, 10, 1)
    before = {name: (value, value.clone()) for name, value in state.items()}
    accounting.spend(state, 1.0, np.arange(6), 6)
    accounting.spend_hidden(state, 1.0, 2, 10)
    for name, (value, copy) in before.items():
        assert torch.equal(value, copy)
        assert not torch.equal(state[name], copy)


@pytest.mark.parametrize("sigma", [1e-3, 1e5])
def test_finite_for_all_noise(sigma):
    for state in (public(sigma, 3), hidden(sigma, 3, 1000, 3)):
        assert 0 <= accounting.epsilon(state, DELTA) < math.inf


def test_without_the_package_there_is_no_number(monkeypatch):
    state = public(1.0, 1) | hidden(1.0, 2, 10, 1)
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    assert accounting.epsilon(state, DELTA) is None


def test_a_round_is_accounted_for_in_less_than_a_millisecond():
    state, seconds = {}, []
    for _ in range(30):
        begin = time.perf_counter()
        accounting.spend_hidden(state, 0.7, 10, 1000)
        accounting.spend(state, 0.7, np.arange(10), 10_000)
        accounting.epsilon(state, DELTA)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1e-3
