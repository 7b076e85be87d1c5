"""Every number of every probe against its definition, one client after the other in double precision."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.probes import Consensus, Drift, GradientDeviation, GradientVariance
from tests.experiments import digits
from tests.probes import naive
from tests.probes.own import Halfway

ALL = (GradientDeviation(), GradientVariance(), Consensus(), Drift())
FULL = rs.Local(optimizer=rs.optimizers.SGD(lr=naive.LR), steps=naive.STEPS)
# Float32 against float64: D is a difference of gradients that agree in a digit or two.
NEAR = {"rel": 1e-4, "abs": 1e-7}


def everyone(**changes):
    """Nine unequal clients, all in every round, full batches."""
    fields = {
        "partition": rs.partitions.Dirichlet(clients=9, alpha=0.3),
        "local": FULL,
        "rule": rs.rules.Averaging(weighting="uniform"),
        "cohort": None,
        "rounds": 3,
        "probes": ALL,
        "execution": rs.Execution(block=2),
    }
    return digits(**(fields | changes))


def seen(row, expected):
    """The columns of a row that are expected."""
    return {name: row[name] for name in expected}


def test_averaging():
    sim = everyone()
    metrics, reference = sim.run(None).metrics, naive.Naive(sim)
    for r in range(1, 4):
        expected = naive.variance(reference, reference.x)
        models = reference.average()
        expected |= naive.deviation(reference, models) | {"consensus": 0.0, "consensus_relative": 0.0}
        assert seen(metrics.loc[r], expected) == pytest.approx(expected, **NEAR)


def matrix(sim):
    """W of an experiment's rule: x_i <- sum_j w_ij y_j."""
    if isinstance(sim.rule, Halfway):
        return 0.5 * torch.eye(9, dtype=torch.float64) + 0.5 / 9
    return torch.from_numpy(sim.rule.topology.mixing(9, 0).toarray())


@pytest.mark.parametrize("rule", [Halfway(), rs.rules.Gossip(topology=rs.topologies.Ring())])
def test_a_model_per_client(rule):
    sim = everyone(rule=rule)
    metrics, reference = sim.run(None).metrics, naive.Naive(sim)
    own = reference.x.repeat(9, 1)
    for r in range(1, 4):
        expected = naive.variance(reference, own.mean(0))
        models = reference.train_own(own)
        own = matrix(sim) @ models
        expected |= naive.deviation(reference, list(models)) | naive.consensus(own)
        assert seen(metrics.loc[r], expected) == pytest.approx(expected, **NEAR)


def test_drift_alone_is_the_drift_beside_the_deviation():
    both, alone = (everyone(probes=p).run(None).metrics["drift"] for p in (ALL[:1], ALL[3:]))
    assert both.equals(alone)


def test_variance_of_clients_that_almost_agree():
    """V is a ten-thousandth of ||∇f||²: as a difference of float32 numbers it would have three digits."""
    data = rs.data.Digits().load()
    rng = np.random.Generator(np.random.PCG64(0))
    x, y = data.x_train[:200], data.y_train[:200]
    tile = np.concatenate([x + 0.02 * rng.standard_normal(x.shape) for _ in range(4)]).astype(np.float32)
    sim = everyone(
        data=rs.data.Arrays(x_train=tile, y_train=np.tile(y, 4), x_test=x, y_test=y),
        partition=rs.partitions.Explicit(indices=[np.arange(200) + 200 * c for c in range(4)]),
        model=rs.models.Linear(),
        rounds=1,
        probes=(GradientVariance(),),
    )
    reference = naive.Naive(sim)
    expected = naive.variance(reference, reference.x)
    assert expected["gradient_variance_relative"] < 2e-3
    assert seen(sim.run(None).metrics.loc[1], expected) == pytest.approx(expected, **NEAR)


def regression(x, y, shares, **changes):
    """A linear model without bias on plain arrays."""
    return everyone(
        data=rs.data.Arrays(x_train=x, y_train=y, x_test=x, y_test=y),
        partition=rs.partitions.Explicit(indices=shares),
        model=rs.models.Linear(bias=False),
        **changes,
    )


def test_clients_without_a_gradient_have_no_direction():
    rng = np.random.Generator(np.random.PCG64(1))
    x, y = (rng.standard_normal(s).astype(np.float32) for s in ((40, 3), (40, 2)))
    x[:10] = y[:10] = 0
    sim = regression(x, y, [np.arange(10) + 10 * c for c in range(4)], rounds=1)
    reference = naive.Naive(sim)
    expected = naive.variance(reference, reference.x)
    metrics = sim.run(None).metrics
    assert seen(metrics.loc[1], expected) == pytest.approx(expected, **NEAR)


def test_no_gradients_at_all_leave_out_what_has_no_meaning():
    x, y = np.zeros((40, 3), np.float32), np.zeros((40, 2), np.float32)
    row = regression(x, y, [np.arange(10) + 10 * c for c in range(4)], rounds=1).run(None).metrics.loc[1]
    assert row[["gradient_variance", "deviation", "drift", "consensus"]].tolist() == [0, 0, 0, 0]
    gone = {"gradient_variance_relative", "gradient_cosine", "deviation_relative", "lipschitz"}
    assert not gone & set(row.index)


def test_one_client():
    result = everyone(cohort=1).run(None)
    row = result.metrics.loc[3]
    assert result.status == "finished"
    assert row[["gradient_variance", "deviation", "deviation_relative", "drift"]].tolist() == [0, 0, 0, 0]
    assert not {"gradient_cosine", "lipschitz"} & set(row.index)


def test_no_local_steps():
    row = everyone(local=rs.Local(optimizer=FULL.optimizer, steps=0), rounds=1).run(None).metrics.loc[1]
    assert row[["deviation", "drift"]].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert row["gradient_variance"] > 0


def test_what_is_not_finite_is_left_out_and_the_run_ends_as_it_would():
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=1e30), steps=4)
    model = rs.models.MLP(hidden=(16,))
    runs = [everyone(local=local, model=model, probes=p).run(None) for p in ((), ALL)]
    assert [r.status for r in runs] == ["diverged", "diverged"]
    assert len(runs[0].metrics) == len(runs[1].metrics)
