"""Armijo's line search against a naive one, one client at a time; what it promises, and its corners.

How the engine runs it is in ``test_compressed_search.py``.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import raysim as rs
from raysim.optimizers import Armijo
from tests.experiments import digits

CLIENTS = 6
GEN = torch.Generator().manual_seed(0)


def some(optimizer, **changes):
    fields = {
        "partition": rs.partitions.Dirichlet(clients=CLIENTS, alpha=0.5),
        "model": rs.models.MLP(hidden=(12,), activation="tanh"),
        "local": rs.Local(optimizer=optimizer, steps=2, batch_size=16, shuffle=False, keep_state=True),
        "cohort": None,
        "rounds": 20,
        "evaluate_every": 1,
        "rule": rs.rules.Averaging(weighting="uniform"),
    }
    return digits(**(fields | changes))


def naive_search(value, x, g, trial, sigma=0.1, backtrack=0.8):
    """The accepted step and how often f was evaluated for it."""
    alpha, count, f = trial, 1, value(x)
    while value(x - alpha * g) > f - sigma * alpha * g.dot(g):
        alpha, count = alpha * backtrack, count + 1
    return alpha, count


def naive(sim, lr=1.0, growth=1.2, mu=0.0, scale=1.0):
    """Local SGD with a search at every step, in torch, client by client; per round: mean step, mean evaluations."""
    data = sim.data.load()
    shares, model = sim.partition.split(data, sim.seed), sim.initial_model(data)
    x = parameters_to_vector(model.parameters()).detach()
    alphas, told = [None] * len(shares), []

    def loss(y, index, start):
        vector_to_parameters(y, model.parameters())
        out = model(torch.from_numpy(data.x_train[index]))
        return F.cross_entropy(out, torch.from_numpy(data.y_train[index])) + 0.5 * mu * (y - start).dot(
            y - start
        )

    def gradient(y, index, start):
        vector_to_parameters(y.clone(), model.parameters())
        out = model(torch.from_numpy(data.x_train[index]))
        batch_loss = F.cross_entropy(out, torch.from_numpy(data.y_train[index]))
        flat = parameters_to_vector(torch.autograd.grad(batch_loss, list(model.parameters())))
        return flat + mu * (y - start)

    for _ in range(sim.rounds):
        moved, counts = [], []
        for i, share in enumerate(shares):
            y, total = x.clone(), 0
            for index in (share[:16], share[16:32]):
                g = gradient(y, index, x)
                trial = lr if alphas[i] is None else growth * alphas[i]
                value = lambda at, index=index, x=x: loss(at.clone(), index, x).item()
                alphas[i], count = naive_search(value, y, g, trial)
                y, total = y - scale * alphas[i] * g, total + count
            moved.append(y - x)
            counts.append(total)
        x = x + sum(moved) / len(moved)
        sizes = [len(s) for s in shares]
        told.append([np.average(alphas, weights=sizes), np.average(counts, weights=sizes)])
    return x, np.array(told)


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
def test_equals_naive_with_mini_batches_and_warm_start(form):
    sim = some(Armijo(lr=1.0, scale=0.7), execution=rs.Execution(form=form, block=4))
    expected, told = naive(sim, scale=0.7)
    result = sim.run(None)
    torch.testing.assert_close(result.x_P, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.metrics["step"][1:], told[:, 0], rtol=1e-5)
    np.testing.assert_allclose(result.metrics["evaluations"][1:], told[:, 1], rtol=1e-6)


def test_the_loss_searched_on_includes_a_proximal_term():
    sim = some(Armijo(lr=1.0), rule=rs.rules.FedProx(mu=2.0, weighting="uniform"), rounds=8)
    expected, told = naive(sim, mu=2.0)
    result = sim.run(None)
    torch.testing.assert_close(result.x_P, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.metrics["step"][1:], told[:, 0], rtol=1e-5)


# ---- what the search promises, on functions whose rows know nothing of each other, to the bit ------------------


class Quadratics:
    """f_c(x) = ½ Σ_p h_cp x_p², float64; counts evaluations of each row."""

    def __init__(self, h_CP, counts_C=None, ids=None):
        self.h_CP, self.counts_C = h_CP, torch.zeros(len(h_CP)) if counts_C is None else counts_C
        self.ids = torch.arange(len(h_CP)) if ids is None else ids

    def value_and_grad(self, x_CP):
        return self._value(x_CP), self.h_CP * x_CP

    def value(self, x_CP):
        self.counts_C[self.ids] += 1
        return self._value(x_CP)

    def _value(self, x_CP):
        return 0.5 * (self.h_CP * x_CP * x_CP).sum(1)

    def picked(self, index_A):
        return Quadratics(self.h_CP[index_A], self.counts_C, self.ids[index_A])


def numbers(*shape):
    return torch.randn(*shape, generator=GEN, dtype=torch.float64)


def curvatures(C=8, P=5):
    return (
        torch.rand(C, P, generator=GEN, dtype=torch.float64)
        * 10 ** torch.linspace(-2, 3, C).double()[:, None]
    )


def searched(h_CP, x_CP, optimizer, steps=1, lr=1.0):
    x_CP, objective, state = x_CP.clone(), Quadratics(h_CP), optimizer.init(x_CP)
    for _ in range(steps):
        optimizer.step(objective, x_CP, state, lr)
    return x_CP, state, objective.counts_C


def test_rows_that_search_together_get_the_bits_that_each_gets_alone():
    h_CP, x_CP, optimizer = curvatures(), numbers(8, 5), Armijo(lr=1.0)
    together, state, _ = searched(h_CP, x_CP, optimizer, 5)
    assert len(state["evaluations"].unique()) > 4  # rows leave the search at different times
    for c in range(8):
        alone, own, _ = searched(h_CP[c : c + 1], x_CP[c : c + 1], optimizer, 5)
        assert torch.equal(alone[0], together[c])
        assert all(torch.equal(own[name][0], state[name][c]) for name in own)


def test_counts_what_it_evaluates_and_nothing_else():
    h_CP, x_CP, optimizer = curvatures(), numbers(8, 5), Armijo(lr=1.0)
    _, state, counts_C = searched(h_CP, x_CP, optimizer, 5)
    assert torch.equal(state["evaluations"][:, 0].float(), counts_C)
    for c in range(8):
        x, trial, total = x_CP[c], 1.0, 0
        for _ in range(5):
            value = lambda at, c=c: (0.5 * h_CP[c] * at * at).sum().item()
            alpha, count = naive_search(value, x, h_CP[c] * x, trial)
            x, trial, total = x - alpha * h_CP[c] * x, 1.2 * alpha, total + count
        assert total == counts_C[c]
        assert state["step"][c].item() == pytest.approx(alpha, rel=1e-12)


def test_a_search_costs_less_than_two_evaluations_a_step_in_the_long_run():
    """Every step one acceptance; failures undo what growth does, log 1.2 / log 1.25 = 0.82 of them a step."""
    h_CP = torch.logspace(-4, 0, 5, dtype=torch.float64) * torch.logspace(-2, 3, 8)[:, None]
    _, state, _ = searched(h_CP, 10 * numbers(8, 5), Armijo(lr=1.0), 200)
    failures_C1 = (199 * math.log(1.2) - state["step"].log()) / math.log(1.25)
    torch.testing.assert_close(state["evaluations"], 200 + failures_C1)
    assert ((state["evaluations"] / 200 - 1.82).abs() < 0.2).all()


@pytest.mark.parametrize(("sigma", "backtrack"), [(0.1, 0.8), (0.5, 0.9), (0.01, 0.5)])
def test_the_step_is_long_enough_and_loses_enough(sigma, backtrack):
    """Armijo's inequality holds at α and not at α / backtrack; α >= min(backtrack 2 (1 - sigma) / L, growth α')."""
    h_CP, x_CP = curvatures(), 1e9 * numbers(8, 5)  # far away: no gradient gets too small to search along
    optimizer = Armijo(lr=1.0, sigma=sigma, backtrack=backtrack)
    state, objective, first_C = optimizer.init(x_CP), Quadratics(h_CP), torch.ones(8, dtype=torch.float64)
    for _ in range(30):
        before, g_CP = x_CP.clone(), h_CP * x_CP
        optimizer.step(objective, x_CP, state, 1.0)
        alpha_C = state["step"][:, 0]
        loss = lambda a_C, x=before, g=g_CP: objective._value(x - a_C[:, None] * g)
        bound = lambda a_C, x=before, g=g_CP: objective._value(x) - sigma * a_C * (g * g).sum(1)
        assert (loss(alpha_C) <= bound(alpha_C)).all()
        longer_C = alpha_C / backtrack
        assert ((loss(longer_C) > bound(longer_C)) | (alpha_C == first_C)).all()
        least_C = torch.minimum(backtrack * 2 * (1 - sigma) / h_CP.amax(1), first_C)
        assert (alpha_C >= least_C * (1 - 1e-12)).all()
        first_C = 1.2 * alpha_C


def test_converges_on_any_curvature_without_being_told_it():
    x_CP, _, _ = searched(curvatures() + 0.005, numbers(8, 5), Armijo(lr=1.0, growth=2.0), 300)
    assert x_CP.abs().max() < 1e-3


# ---- corners -------------------------------------------------------------------------------------------------


def test_max_step_caps_first_trials_and_growth():
    h_CP = torch.full((1, 2), 1e-3, dtype=torch.float64)
    for lr in (0.5, 100.0):
        _, state, _ = searched(h_CP, numbers(1, 2), Armijo(lr=1.0, max_step=2.0, growth=3.0), 6, lr)
        assert state["step"].item() == 2.0


def test_where_all_tries_fail_it_hardly_moves_and_goes_on_below():
    h_CP, x_CP = torch.tensor([[1.0], [1e9]], dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    after, state, counts = searched(h_CP, x_CP, Armijo(lr=1.0, tries=3, scale=0.5))
    torch.testing.assert_close(state["step"][:, 0], torch.tensor([1.0, 0.8**3], dtype=torch.float64))
    torch.testing.assert_close(after[:, 0], torch.tensor([0.5, 1 - 0.5e-6 * 1e9], dtype=torch.float64))
    assert counts.tolist() == [1, 3]


def test_a_row_without_gradient_stays_and_keeps_its_step_while_others_search():
    h_CP, x_CP = curvatures(3, 2), numbers(3, 2)
    optimizer, objective = Armijo(lr=1.0), Quadratics(h_CP)
    x_CP[1] = 1e-12
    state = optimizer.init(x_CP)
    state["step"][1] = 0.3
    before = x_CP.clone()
    optimizer.step(objective, x_CP, state, 1.0)
    assert torch.equal(x_CP[1], before[1])
    assert state["step"][1].item() == 0.3
    assert objective.counts_C[1] == state["evaluations"][1] == 0
    assert (x_CP[[0, 2]] != before[[0, 2]]).all()


def test_a_trial_whose_loss_is_not_a_number_is_a_failed_one():
    class Log(Quadratics):
        """x - log x, defined for x > 0 alone."""

        def _value(self, x_CP):
            return (x_CP - x_CP.log()).sum(1)

        def value_and_grad(self, x_CP):
            return self._value(x_CP), 1 - 1 / x_CP

        def picked(self, index_A):
            return self

    x_CP, optimizer = torch.tensor([[3.0]]), Armijo(lr=64.0)
    for _ in range(20):
        optimizer.step(Log(x_CP), x_CP, optimizer.init(x_CP), 64.0)
    assert x_CP.item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Armijo(lr=0), r"Armijo\.lr must be greater than 0"),
        (lambda: Armijo(lr=1.0, sigma=0.0), r"Armijo\.sigma must be greater than 0"),
        (lambda: Armijo(lr=1.0, backtrack=1.0), r"Armijo\.backtrack must be less than 1"),
        (lambda: Armijo(lr=1.0, growth=0.9), r"Armijo\.growth must be greater than or equal to 1"),
        (lambda: Armijo(lr=1.0, scale=1.5), r"Armijo\.scale must be less than or equal to 1"),
        (lambda: Armijo(lr=1.0, tries=0), r"Armijo\.tries must be greater than or equal to 1"),
        (lambda: Armijo(lr=1.0, max_step=0.0), r"Armijo\.max_step must be"),
    ],
)
def test_wrong_fields_are_refused(build, words):
    with pytest.raises(rs.ConfigError, match=words):
        build()


def test_a_server_cannot_search():
    rule = rs.rules.Averaging(server=Armijo(lr=1.0))
    with pytest.raises(rs.ConfigError, match=r"Armijo, which needs the loss.*Use it as Local\.optimizer"):
        some(rs.optimizers.SGD(lr=0.1), rule=rule, rounds=1)
