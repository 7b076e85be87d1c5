"""FedProx against a naive one, one client and one step at a time."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import raysim as rs
from raysim.core.cohorts import cohort_ids
from tests.experiments import digits, same

CLIENTS, SIZE = 12, 5
flat = torch.nn.utils.parameters_to_vector


def some(rule, **changes):
    fields = {
        "partition": rs.partitions.Dirichlet(clients=CLIENTS, alpha=0.3),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=3),
        "cohort": SIZE,
        "rounds": 20,
        "rule": rule,
    }
    return digits(**(fields | changes))


def naive(sim, mu, momentum=0.0, decay=0.0, uniform=False):
    """Minimise F_i(y) + (mu/2) ||y - x||², the term written out as a loss for autograd, with torch's SGD."""
    data = sim.data.load()
    shares, model = sim.partition.split(data, sim.seed), sim.initial_model()
    x_P = flat(model.parameters()).detach()
    for round in range(sim.rounds):
        ids = cohort_ids(sim.seed, round, len(shares), SIZE)
        weight = np.array([1 if uniform else len(shares[i]) for i in ids], float)
        new_P = torch.zeros(len(x_P), dtype=torch.float64)
        for i, w in zip(ids, weight / weight.sum(), strict=True):
            x, y = torch.from_numpy(data.x_train[shares[i]]), torch.from_numpy(data.y_train[shares[i]])
            torch.nn.utils.vector_to_parameters(x_P.clone(), model.parameters())
            sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=decay)
            for _ in range(3):
                sgd.zero_grad()
                away = flat(model.parameters()) - x_P
                (F.cross_entropy(model(x), y) + mu / 2 * away.square().sum()).backward()
                sgd.step()
            new_P += w * flat(model.parameters()).detach().double()
        x_P = new_P.float()
    return x_P


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.01)])
def test_equals_naive(form, momentum, decay):
    optimizer = rs.optimizers.SGD(lr=0.1, momentum=momentum, weight_decay=decay)
    sim = some(
        rs.rules.FedProx(mu=0.5),
        local=rs.Local(optimizer=optimizer, steps=3),
        execution=rs.Execution(form=form, block=3),
    )
    # momentum at this step size doubles rounding errors over the rounds
    exact = 1e-5 if momentum == 0 else 1e-4
    torch.testing.assert_close(sim.run(None).x_P, naive(sim, 0.5, momentum, decay), rtol=exact, atol=exact)


def test_equals_naive_with_uniform_weights():
    sim = some(rs.rules.FedProx(mu=2.0, weighting="uniform"))
    torch.testing.assert_close(sim.run(None).x_P, naive(sim, 2.0, uniform=True), rtol=1e-5, atol=1e-5)


def test_no_term_is_averaging_and_a_term_is_not():
    plain = some(rs.rules.Averaging(), rounds=5).run(None).x_P
    free, held = (some(rs.rules.FedProx(mu=mu), rounds=5).run(None).x_P for mu in (0.0, 1.0))
    torch.testing.assert_close(free, plain, rtol=1e-6, atol=1e-6)
    assert (held - plain).norm() > 1e-2


def test_one_local_step_is_averaging():
    """At its start a client is at the centre of its term."""
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1)
    rules = (rs.rules.FedProx(mu=3.0), rs.rules.Averaging())
    runs = [some(rule, local=local, rounds=5).run(None).x_P for rule in rules]
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-5)


def test_a_strong_term_keeps_clients_where_they_start():
    """On quadratics: the fixed point of many local steps is (H + mu)⁻¹ (H w_i + mu x), and mu large leaves x."""
    data = rs.data.Quadratic(clients=1, dimension=4, examples=8, condition=4.0)
    w = torch.from_numpy(data.load().optimum.astype(np.float32))
    fields = {"data": data, "partition": rs.partitions.ByGroup(), "model": rs.models.Linear(bias=False)}
    fields |= {"cohort": None, "rounds": 1, "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=400)}
    x_n4 = torch.from_numpy(data.load().x_train)
    hessian = x_n4.T @ x_n4 / len(x_n4)
    sim = digits(**fields, rule=rs.rules.FedProx(mu=2.0))
    x = flat(sim.initial_model().parameters()).detach()
    expected = torch.linalg.solve(hessian + 2.0 * torch.eye(4), hessian @ w + 2.0 * x)
    torch.testing.assert_close(sim.run(None).x_P, expected, rtol=1e-4, atol=1e-5)


def test_server_optimizer_takes_the_pseudo_gradient():
    """SGD with a step size of one half goes half of the way."""
    half = rs.rules.FedProx(mu=0.5, server=rs.optimizers.SGD(lr=0.5))
    sims = [some(rule, rounds=1) for rule in (half, rs.rules.FedProx(mu=0.5))]
    start = flat(sims[0].initial_model().parameters()).detach()
    part, whole = (sim.run(None).x_P for sim in sims)
    torch.testing.assert_close(part - start, (whole - start) / 2, rtol=1e-5, atol=1e-6)


def test_bits_are_one_model_each_way_per_client():
    result = some(rs.rules.FedProx(mu=0.1), rounds=3).run(None)
    bits = 3 * SIZE * 32 * result.x_P.numel()
    assert result.metrics["bits_up"].iloc[-1] == result.metrics["bits_down"].iloc[-1] == bits


KEPT = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)


def test_stop_and_resume_equals_one_run(tmp_path):
    sim = digits(rule=rs.rules.FedProx(mu=0.1, server=rs.optimizers.Adam(lr=0.01)), local=KEPT)
    sim.replaced(rounds=2).run(tmp_path / "run")
    assert same(sim.run(None), rs.resume(tmp_path / "run", sim))


def test_what_cannot_run_is_refused():
    with pytest.raises(rs.ConfigError, match=r"FedProx\.mu must be greater than or equal to 0, got -1"):
        rs.rules.FedProx(mu=-1.0)
    with pytest.raises(
        rs.ConfigError, match=r"FedProx\.weighting must be 'examples' or 'uniform', got 'size'"
    ):
        rs.rules.FedProx(mu=0.1, weighting="size")
