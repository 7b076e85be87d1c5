"""EASGD, EAMSGD and DOWNPOUR against naive ones, their bits, what they refuse."""

import numpy as np
import pytest
import torch

import raysim as rs
from tests.experiments import digits, same
from tests.workers import Stepwise, few, played, wells, wells_gradient, workers_of

P_WORKERS = 5


def naive_elastic(sim, optimizer, alpha, beta):
    """Worker after worker: x_i <- (1 - alpha) x_i + alpha z, z <- (1 - beta) z + beta mean_i x_i before the pull."""
    workers = workers_of(sim, optimizer)
    z = workers[0].flat
    for _ in range(sim.rounds):
        before = []
        for w in workers:
            w.train(3)
            before.append(w.flat)
            w.flat = (1 - alpha) * w.flat + alpha * z
        z = (1 - beta) * z + beta * torch.stack(before).mean(0)
    return z, torch.stack([w.flat for w in workers])


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
@pytest.mark.parametrize(
    ("rule", "alpha", "beta"),
    [
        (rs.rules.EASGD(), 0.9 / P_WORKERS, 0.9),
        (rs.rules.EASGD(beta=0.43, alpha=0.3), 0.3, 0.43),
    ],
)
def test_equals_naive_easgd(rule, alpha, beta, form):
    sim = few(rule, execution=rs.Execution(form=form, block=2))
    z, models = naive_elastic(sim, lambda p: torch.optim.SGD(p, lr=0.2), alpha, beta)
    ours, own, _ = played(sim)
    torch.testing.assert_close(ours, z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own, models, rtol=1e-5, atol=1e-5)


NESTEROV = rs.Local(
    optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9, nesterov=True), steps=3, keep_state=True
)


def test_equals_naive_eamsgd():
    """The naive workers' torch optimisers live as long as they do: the velocity is kept and not pulled."""
    sim = few(rs.rules.EAMSGD(), local=NESTEROV)
    torch_nesterov = lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)
    z, models = naive_elastic(sim, torch_nesterov, 0.9 / P_WORKERS, 0.9)
    ours, own, _ = played(sim)
    torch.testing.assert_close(ours, z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own, models, rtol=1e-4, atol=1e-5)


def test_equals_naive_downpour():
    sim = few(rs.rules.Downpour(), local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.05), steps=3))
    workers = workers_of(sim, lambda p: torch.optim.SGD(p, lr=0.05))
    z = workers[0].flat
    for _ in range(sim.rounds):
        pushed = torch.zeros_like(z)
        for w in workers:
            w.flat = z
            w.train(3)
            pushed += w.flat - z
        z = z + pushed
    torch.testing.assert_close(played(sim)[0], z, rtol=1e-5, atol=1e-5)


def test_the_spring_pulls_both_ends_alike():
    """With β = p α the sum of workers and centre is what gradients alone make of it: here, without any, constant."""
    sim = few(rs.rules.EASGD(), local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=0))
    start = np.random.Generator(np.random.PCG64(0)).standard_normal((P_WORKERS, 75)).astype(np.float32)
    run = Stepwise(sim, start)
    total = torch.from_numpy(start).sum(0) + run.server.x_P
    for _ in range(3):
        run.step()
        torch.testing.assert_close(run.models_NP.sum(0) + run.server.x_P, total)
    assert not torch.equal(run.models_NP, torch.from_numpy(start))


def test_workers_in_two_valleys_come_to_rest_where_no_gradient_is_zero():
    """The stationary points of elastic averaging are not those of f (Teng et al. 2019), see ``test_leader.py``."""
    run = Stepwise(wells(rs.rules.EASGD(alpha=0.05)), np.array([[1.3], [-0.7]], np.float32))
    for _ in range(300):
        before = run.models_NP
        run.step()
    assert (run.models_NP - before).abs().max() < 1e-6
    points = [*run.models_NP[:, 0].tolist(), run.server.x_P.item()]
    assert points[0] > 0.5
    assert points[1] < -0.3
    assert all(abs(wells_gradient(w)) > 0.05 for w in points)


def test_easgd_with_full_pull_of_the_centre_is_averaging():
    """β = 1 and workers that always return to z are Local SGD, but for α < 1: here as near as float32 tells."""
    sim = few(rs.rules.EASGD(beta=1.0, alpha=1 - 1e-7), rounds=1)
    average = sim.replaced(rule=rs.rules.Averaging(weighting="uniform"))
    torch.testing.assert_close(played(sim)[0], played(average)[0], rtol=1e-5, atol=1e-6)


def test_downpour_of_one_worker_is_sgd():
    sim = few(rs.rules.Downpour(), partition=rs.partitions.IID(clients=1))
    alone = sim.replaced(rule=rs.rules.Averaging())
    torch.testing.assert_close(played(sim)[0], played(alone)[0], rtol=1e-6, atol=1e-6)


def test_those_who_rest_keep_their_model():
    run = Stepwise(digits(rule=rs.rules.EASGD()))
    first = run.step().ids
    assert set(run.host.rows.slot) == set(first.tolist())
    rest = np.setdiff1d(first, run.clients().ids)
    assert len(rest)
    before = run.coordinator.fleet.fetch("model", rest)
    run.step()
    assert torch.equal(before, run.coordinator.fleet.fetch("model", rest))


@pytest.mark.parametrize("rule", [rs.rules.EASGD(), rs.rules.Downpour()])
def test_bits_are_one_row_each_way(rule):
    result = digits(rule=rule, rounds=3).run(None)
    bits = 3 * 8 * 32 * result.x_P.numel()
    assert result.metrics["bits_up"].iloc[-1] == result.metrics["bits_down"].iloc[-1] == bits


KEPT = rs.Local(
    optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9, nesterov=True),
    epochs=1,
    batch_size=8,
    keep_state=True,
)


@pytest.mark.parametrize("rule", [rs.rules.EAMSGD(alpha=0.2), rs.rules.Downpour()])
def test_stop_and_resume_equals_one_run(tmp_path, rule):
    sim = digits(rule=rule, local=KEPT, rounds=5)
    expected = sim.run(None)
    sim.replaced(rounds=2).run(tmp_path / "run")
    assert same(expected, rs.resume(tmp_path / "run", sim))


@pytest.mark.parametrize("fields", [{"beta": 0.0}, {"beta": 1.1}, {"alpha": 1.0}, {"alpha": -0.1}])
def test_shares_out_of_range_are_refused(fields):
    with pytest.raises(rs.ConfigError, match=r"EASGD\.(alpha|beta) must be"):
        rs.rules.EASGD(**fields)


@pytest.mark.parametrize(
    "local",
    [
        rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1, keep_state=True),
        rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, momentum=0.9), steps=1, keep_state=True),
        rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, momentum=0.9, nesterov=True), steps=1),
        rs.Local(optimizer=rs.optimizers.Adam(lr=0.1), steps=1, keep_state=True),
    ],
)
def test_eamsgd_without_kept_nesterov_momentum_is_refused(local):
    with pytest.raises(
        rs.ConfigError, match=r"keeps? from round to round.*keep_state=True, or the rule EASGD"
    ):
        few(rs.rules.EAMSGD(), local=local)
