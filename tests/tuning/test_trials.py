"""Many experiments: stacked where that is possible, alone where it is not, always in their order."""

import numpy as np
import pytest

import raysim as rs
from raysim.core.host import ClientError
from raysim.optimizers import SGD
from raysim.rules import FedProx
from tests.tuning.stacks import every, experiment, rates, rules
from tests.tuning.test_population_limits import Guarded, Unknown
from tuning.population.many import grouped, run_all


def test_order_is_kept_and_everybody_is_told():
    simulations = [experiment(SGD(lr=lr), seed=seed, rounds=6) for lr in (0.05, 0.1, 0.2) for seed in (0, 1)]
    simulations.insert(3, experiment(rule=FedProx(mu=0.1), rounds=6))
    lines = []
    tables = run_all(simulations, lines.append)
    for table, simulation in zip(tables, simulations, strict=True):
        expected = simulation.run(None).metrics
        np.testing.assert_allclose(table["loss"], expected["loss"], rtol=1e-4)
        assert list(table.columns) == list(expected.columns)
    stack = "3 experiments trained as one stack: they differ in local.optimizer.lr alone."
    assert lines[:2] == [stack, stack]
    assert lines[2].startswith("1 experiment runs by itself: ")
    assert len(lines) == 3


def test_groups_are_by_what_must_be_the_same():
    simulations = [experiment(SGD(lr=lr), seed=seed) for lr in (0.1, 0.2) for seed in (0, 1)]
    (first, none), (second, why) = grouped(simulations)
    assert (first, second, none) == ([0, 2], [1, 3], None)
    assert "seed differs (0 and 1)" in why


def test_what_fails_as_a_stack_runs_one_by_one():
    simulations, lines = rules(Guarded(0.5), Guarded(0.25), rounds=4), []
    tables = run_all(simulations, lines.append)
    for table, simulation in zip(tables, simulations, strict=True):
        assert table["loss"].equals(simulation.run(None).metrics["loss"])
    assert lines[0].startswith(
        "2 experiments run one by one: guarded fails on a stack of trials: RuntimeError"
    )


def test_a_rule_of_ones_own_runs_one_by_one():
    lines = []
    assert len(run_all(rules(Unknown(), Unknown(), rounds=2), lines.append)) == 2
    assert all("rule.Unknown is not known to work on a stack" in line for line in lines)


def test_one_alone_is_an_ordinary_run():
    lines = []
    (table,) = run_all([experiment(rounds=3)], lines.append)
    assert table["loss"].equals(experiment(rounds=3).run(None).metrics["loss"])
    assert lines == []
    assert run_all([]) == []


def test_divergence_is_a_result():
    calm, wild = run_all([experiment(SGD(lr=lr), rounds=8) for lr in (0.1, 1e30)])
    assert len(calm) == 9
    assert np.isfinite(calm["loss"]).all()
    assert np.isnan(wild["loss"].iloc[-1])
    assert len(wild) < 9


def test_an_error_is_that_of_the_experiment_alone():
    broken = [
        experiment(rule=Guarded(share), model=rs.models.MLP(hidden=(8,)), rounds=2) for share in (0.5, 0.6)
    ]
    broken = [b.replaced(rule=Broken(b.rule.share)) for b in broken]
    with pytest.raises(ClientError, match="ZeroDivisionError for client"):
        run_all(broken)


class Broken(Guarded):
    """Its client side fails."""

    def round(self, clients, server):
        return server.at(clients.mean(failing, server.x_P))


def failing(cohort, x_P):
    raise ZeroDivisionError("on purpose")


def test_how_far_it_is_grows_from_round_to_round():
    seen = []
    run_all([*every(rates()), experiment(rounds=10), experiment(steps=2)], watch=seen.append)
    assert seen == sorted(seen)
    assert len(seen) == 20 + 2
    assert seen[9] == pytest.approx(3 / 5 / 2)  # half of three of five
    assert seen[-1] == 1
