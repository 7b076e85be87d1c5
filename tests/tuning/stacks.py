"""Small experiments that differ in numbers, and what holds a stack of them against their separate runs."""

import numpy as np
import torch

import raysim as rs
from raysim.optimizers import SGD
from raysim.rules import Averaging
from tests.experiments import arrays
from tuning.population import Population

DATA = arrays(n=80)
RATES = (0.02, 0.1, 0.4)


def experiment(optimizer=None, rule=None, **changes):
    """Clients of different sizes and numbers of steps, some of them a round."""
    local = {k: changes.pop(k) for k in ("steps", "batch_size", "keep_state") if k in changes}
    local = {"batch_size": 4, **({} if "steps" in local else {"epochs": 1}), **local}
    fields = {
        "data": DATA,
        "partition": rs.partitions.Dirichlet(clients=7, alpha=0.5),
        "model": rs.models.MLP(hidden=(8,)),
        "local": rs.Local(optimizer=optimizer or SGD(lr=0.1), **local),
        "rule": rule or Averaging(),
        "cohort": 4,
        "rounds": 20,
    }
    return rs.Simulation(**(fields | changes))


def rates(optimizer=SGD, values=RATES, **numbers):
    return [optimizer(lr=lr, **numbers) for lr in values]


def every(optimizers, **changes):
    return [experiment(o, **changes) for o in optimizers]


def rules(*rules, **changes):
    return [experiment(rule=r, **changes) for r in rules]


def agree(stacked, separate, rtol=1e-4):
    """The same end and the same metrics up to rounding; what is counted, exactly."""
    assert stacked.status == separate.status
    table, expected = stacked.metrics.drop(columns="seconds"), separate.metrics.drop(columns="seconds")
    assert list(table.columns) == list(expected.columns)
    for name in expected.columns:
        tolerance = 0 if expected[name].dtype.kind == "i" else rtol
        np.testing.assert_allclose(
            table[name], expected[name], tolerance, 1e-6 if tolerance else 0, err_msg=name
        )
    torch.testing.assert_close(stacked.x_P, separate.x_P, rtol=1e-3, atol=1e-5)


def together(simulations, **options):
    """The stack's results, each held against its separate run."""
    results = Population(simulations, **options).run()
    for result, simulation in zip(results, simulations, strict=True):
        agree(result, simulation.run(None))
    assert len({float(r.metrics["loss"].iloc[-1]) for r in results}) == len(simulations)  # they are different
    return results
