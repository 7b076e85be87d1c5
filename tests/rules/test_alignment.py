"""GradAlign, FedGA and SGA against naive ones, one client and one step at a time; and what they minimise."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import raysim as rs
from raysim.core.clients import Clients
from raysim.core.cohorts import cohort_ids
from raysim.runtime.coordinator import Coordinator
from tests.experiments import digits, same

CLIENTS, SIZE = 12, 5


class Naive:
    """The clients of an experiment, by plain autograd."""

    def __init__(self, sim):
        data = sim.data.load()
        self.sim, self.model = sim, sim.initial_model()
        self.x_P = torch.nn.utils.parameters_to_vector(self.model.parameters()).detach()
        shares = sim.partition.split(data, sim.seed)
        self.data = [(torch.from_numpy(data.x_train[s]), torch.from_numpy(data.y_train[s])) for s in shares]

    def gradient(self, i, at_P, batch=slice(None)):
        torch.nn.utils.vector_to_parameters(at_P.clone(), self.model.parameters())
        x, y = self.data[i]
        grads = torch.autograd.grad(F.cross_entropy(self.model(x[batch]), y[batch]), self.model.parameters())
        return torch.cat([g.reshape(-1) for g in grads])

    def cohort(self, round):
        return cohort_ids(self.sim.seed, round, len(self.data), self.sim.cohort_size(len(self.data)))

    def mean(self, ids, rows):
        weight = np.array([len(self.data[i][1]) for i in ids], float)
        weight = weight if self.sim.rule.weighting == "examples" else np.ones(len(ids))
        return sum(w * r.double() for w, r in zip(weight / weight.sum(), rows, strict=True)).float()


def some(rule, **changes):
    fields = {
        "partition": rs.partitions.Dirichlet(clients=CLIENTS, alpha=0.3),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=3),
        "cohort": SIZE,
        "rounds": 20,
        "rule": rule,
    }
    return digits(**(fields | changes))


# ---- against naive implementations ---------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_grad_align_equals_naive(weighting):
    sim = some(rs.rules.GradAlign(beta=0.3, weighting=weighting))
    naive = Naive(sim)
    x = naive.x_P
    for round in range(20):
        ids = naive.cohort(round)
        own = [naive.gradient(i, x) for i in ids]
        mean = naive.mean(ids, own)
        there = [naive.gradient(i, x + 0.3 * (g - mean)) for i, g in zip(ids, own, strict=True)]
        x = x - 0.1 * naive.mean(ids, there)
    torch.testing.assert_close(sim.run(None).x_P, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [0.2, "neutral"])
@pytest.mark.parametrize("server", [False, True])
def test_fed_ga_equals_naive(beta, server):
    """As in the paper: the new model is the mean of the clients' models, displacements and all."""
    outer = rs.optimizers.SGD(lr=0.7, momentum=0.5) if server else None
    sim = some(rs.rules.FedGA(beta=beta, server=outer))
    naive, velocity = Naive(sim), 0
    x, strength = naive.x_P, 0.1 * (3 - 1) / 2 if beta == "neutral" else beta
    for round in range(20):
        ids = naive.cohort(round)
        own = [naive.gradient(i, x) for i in ids]
        mean, trained = naive.mean(ids, own), []
        for i, g in zip(ids, own, strict=True):
            y = x - strength * (mean - g)
            for _ in range(3):
                y = y - 0.1 * naive.gradient(i, y)
            trained.append(y)
        velocity = 0.5 * velocity + (x - naive.mean(ids, trained)) if server else x - naive.mean(ids, trained)
        x = x - (0.7 if server else 1) * velocity
    torch.testing.assert_close(sim.run(None).x_P, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("clients", "batch", "momentum", "rounds"), [(12, None, 0, 20), (12, 16, 0.9, 5), (1, 300, 0, 3)]
)
@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
def test_sequential_grad_align_equals_naive(clients, batch, momentum, rounds, form):
    """Ragged mini-batches and momentum too; with one client it is the function SGA of the authors' code."""
    optimizer = rs.optimizers.SGD(lr=0.05, momentum=momentum, weight_decay=0.01)
    sim = some(
        rs.rules.SequentialGradAlign(beta=0.2),
        partition=rs.partitions.Dirichlet(clients=clients, alpha=0.3 if clients > 1 else 1.0),
        local=rs.Local(optimizer=optimizer, epochs=1, batch_size=batch, shuffle=False),
        cohort=min(clients, SIZE),
        rounds=rounds,
        execution=rs.Execution(form=form, block=3),
    )
    naive = Naive(sim)
    x = naive.x_P
    for round in range(rounds):
        ids = naive.cohort(round)
        full = naive.mean(ids, [naive.gradient(i, x) for i in ids])
        trained = [sga(naive, i, x, full, batch, momentum) for i in ids]
        x = naive.mean(ids, trained)
    torch.testing.assert_close(
        sim.run(None).x_P, x, rtol=1e-4, atol=1e-5
    )  # 90 steps with momentum in float32


def sga(naive, i, x, full, batch, momentum):
    """displace, gradient on the same batch, return, SGD step: one epoch"""
    y = torch.nn.Parameter(x.clone())
    sgd = torch.optim.SGD([y], lr=0.05, momentum=momentum, weight_decay=0.01)
    number = len(naive.data[i][1])
    for a in range(0, number, batch or number):
        b = slice(a, a + (batch or number))
        away = 0.2 * (full - naive.gradient(i, y.detach(), b))
        y.data -= away
        grad = naive.gradient(i, y.detach(), b)
        y.data += away
        y.grad = grad
        sgd.step()
    return y.detach()


# ---- what they minimise --------------------------------------------------------------------------------------


def smooth(rule, **changes):
    """Six equal clients, each with a logistic model of its own: curvature that varies, and gradients that differ."""
    fields = {
        "data": rs.data.Logistic(clients=6, dimension=4, examples=40, test=10, scale=1.0, heterogeneity=2.0),
        "partition": rs.partitions.ByGroup(),
        "model": rs.models.Linear(),
        "cohort": None,
        "rounds": 1,
        "rule": rule,
    }
    return digits(**(fields | changes))


def start(sim):
    return torch.nn.utils.parameters_to_vector(sim.initial_model().parameters()).detach()


def test_grad_align_steps_along_the_gradient_of_f_plus_half_beta_variance():
    """(step - ∇f) / β = ½ ∇V + O(β), so the error falls tenfold with β; a huge step size spares float32 its digits."""
    lr, pulls = 64.0, []
    for beta in (0.0, 0.1, 0.01, 0.001):
        local = rs.Local(optimizer=rs.optimizers.SGD(lr=lr), steps=1)
        sim = smooth(rs.rules.GradAlign(beta=beta), local=local)
        step = (start(sim) - sim.run(None).x_P) / lr
        pulls.append((step - pulls[0]) / beta if beta else step)
    half = half_gradient_of_variance(sim)
    errors = [((pull - half).norm() / half.norm()).item() for pull in pulls[1:]]
    assert errors[0] < 0.2
    assert all(8 < a / b < 12 for a, b in itertools.pairwise(errors)), errors


def half_gradient_of_variance(sim):
    """By double backpropagation in float64."""
    data = sim.data.load()
    x_CM, y_CM = (torch.from_numpy(a).view(6, 40, *a.shape[1:]) for a in (data.x_train, data.y_train))
    w = start(sim).double().requires_grad_()

    def loss(x, y):
        return F.cross_entropy(x.double() @ w[:8].view(2, 4).T + w[8:], y)

    grads = [
        torch.autograd.grad(loss(x, y), w, create_graph=True)[0] for x, y in zip(x_CM, y_CM, strict=True)
    ]
    mean = torch.stack(grads).mean(0)
    variance = torch.stack([(g - mean).square().sum() for g in grads]).mean()
    return 0.5 * torch.autograd.grad(variance, w)[0].float()


def drift(beta, lr, steps=5):
    """A round of FedGA minus as many steps of gradient descent on the mean loss."""
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=lr), steps=steps)
    descent = smooth(
        rs.rules.Averaging(),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=lr), steps=1),
        rounds=steps,
    )
    return smooth(rs.rules.FedGA(beta=beta), local=local).run(None).x_P - descent.run(None).x_P


def test_neutral_beta_cancels_the_drift_of_averaging():
    """The drift is of second order in the step size, what neutral β leaves of third; twice neutral turns it round."""
    coarse, fine = 0.05, 0.025
    averaging, neutral, twice = drift(0.0, fine), drift("neutral", fine), drift(2 * fine * 4 / 2, fine)
    assert neutral.norm() < 0.1 * averaging.norm()
    assert torch.cosine_similarity(averaging, twice, dim=0) < -0.95
    assert 3 < drift(0.0, coarse).norm() / averaging.norm() < 5
    assert 6 < drift("neutral", coarse).norm() / neutral.norm() < 10


# ---- what they agree with ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [rs.rules.FedGA, rs.rules.SequentialGradAlign])
def test_beta_zero_is_averaging(rule):
    runs = [some(r, rounds=5).run(None).x_P for r in (rule(beta=0.0), rs.rules.Averaging())]
    torch.testing.assert_close(*runs, rtol=1e-6, atol=1e-6)


def test_grad_align_is_fed_ga_with_one_step():
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1)
    rules = [rs.rules.GradAlign(beta=0.5), rs.rules.FedGA(beta=0.5)]
    runs = [some(r, local=local).run(None).x_P for r in rules]
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-5)
    assert (runs[0] - some(rs.rules.Averaging(), local=local).run(None).x_P).norm() > 1e-3


def test_neutral_follows_each_clients_own_number_of_steps_and_the_step_size_of_the_round():
    """Clients of 10 and 30 examples in batches of 10: one stays where it is, the other is displaced by α(3-1)/2."""
    shares = [np.arange(10), np.arange(10, 40)]
    lr = rs.schedules.Step(lr=0.4, every=1, factor=0.5)
    sim = some(
        rs.rules.FedGA(beta="neutral", weighting="uniform"),
        partition=rs.partitions.Explicit(indices=shares),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=lr), epochs=1, batch_size=10, shuffle=False),
        cohort=None,
        rounds=2,
    )
    naive = Naive(sim)
    x = naive.x_P
    for alpha in (0.4, 0.2):
        own = [naive.gradient(i, x) for i in (0, 1)]
        mean, change = naive.mean([0, 1], own), []
        for i, steps in ((0, 1), (1, 3)):
            y = begin = x + alpha * (steps - 1) / 2 * (own[i] - mean)
            for b in range(steps):
                y = y - alpha * naive.gradient(i, y, slice(10 * b, 10 * b + 10))
            change.append(y - begin)
        x = x + naive.mean([0, 1], change)
    torch.testing.assert_close(sim.run(None).x_P, x, rtol=1e-5, atol=1e-5)


RULES = [
    rs.rules.GradAlign(beta=0.3, weighting="uniform"),
    rs.rules.FedGA(beta="neutral", weighting="uniform"),
    rs.rules.SequentialGradAlign(beta=0.3, weighting="uniform"),
]


def client_models(cohort, rule, server):
    return rule.models(cohort, server)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_the_round_ends_at_the_mean_of_the_models_that_probes_see(rule):
    coordinator = Coordinator(some(rule), None)
    server = coordinator._prepare()
    clients = Clients(coordinator.fleet, coordinator._plan(0), coordinator.P, CLIENTS)
    told = rule.informed(clients, server)
    rows_CP = clients.rows(client_models, rule, told, measure=True)
    assert clients.bits_up == clients.bits_down == 0
    torch.testing.assert_close(rows_CP.mean(0), rule.round(clients, server).x_P, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_bits_are_two_exchanges_of_a_row_each_way(rule):
    result = some(rule, rounds=3).run(None)
    bits = 3 * SIZE * 2 * 32 * result.x_P.numel()
    assert result.metrics["bits_up"].iloc[-1] == result.metrics["bits_down"].iloc[-1] == bits


# ---- laws ----------------------------------------------------------------------------------------------------

KEPT = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)
PLAIN = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1)


def ragged(rule, **changes):
    return digits(rule=rule, local=PLAIN if isinstance(rule, rs.rules.GradAlign) else KEPT, **changes)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_stop_and_resume_equals_one_run(rule, tmp_path):
    sim = ragged(rule.__class__(beta=0.1, server=rs.optimizers.Adam(lr=0.01)))
    sim.replaced(rounds=2).run(tmp_path / "run")
    assert same(sim.run(None), rs.resume(tmp_path / "run", sim))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: rs.rules.GradAlign(beta=-0.1),
            "GradAlign.beta must be greater than or equal to 0, got -0.1",
        ),
        (lambda: rs.rules.FedGA(beta="netral"), "FedGA.beta must be number or 'neutral', got 'netral'"),
        (lambda: rs.rules.FedGA(beta=0.1, weighting="size"), "FedGA.weighting must be"),
        (lambda: rs.rules.SequentialGradAlign(beta=True), "SequentialGradAlign.beta must be number"),
        (
            lambda: some(rs.rules.GradAlign(beta=0.1), local=KEPT),
            "GradAlign takes one plain gradient step of size Local.optimizer.lr and would ignore the rest of SGD(",
        ),
        (
            lambda: some(
                rs.rules.GradAlign(beta=0.1),
                local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, weight_decay=0.01), steps=1),
            ),
            "would ignore the rest of SGD(",
        ),
    ],
)
def test_what_cannot_run_is_refused(make, words):
    with pytest.raises(rs.ConfigError) as error:
        make()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
