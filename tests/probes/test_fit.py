"""The fit of D² = a Δ + b L."""

import numpy as np
import pandas as pd
import pytest

import raysim as rs
from raysim.probes import GradientDeviation
from tests.experiments import digits


def table(a, b, rounds=12, noise=0.0):
    """Metrics of a run that obeys the law, with drifts a million times smaller than the loss."""
    rng = np.random.Generator(np.random.PCG64(0))
    drift, loss = 1e-6 * rng.random(rounds), np.exp(-0.3 * np.arange(rounds))
    squared = a * drift + b * loss + noise * rng.standard_normal(rounds)
    return pd.DataFrame(
        {"round": range(rounds), "drift": drift, "deviation_loss": loss, "deviation_squared": squared}
    )


def test_finds_the_constants():
    fit = GradientDeviation.fit(table(2e5, 0.3))
    assert (fit.a, fit.b, fit.residual) == pytest.approx((2e5, 0.3, 0), rel=1e-8, abs=1e-8)


def test_agrees_with_least_squares_where_no_constant_is_at_its_bound():
    metrics = table(2e5, 0.3, noise=0.01)
    fit = GradientDeviation.fit(metrics)
    columns, target = metrics[["drift", "deviation_loss"]].to_numpy(), metrics["deviation_squared"].to_numpy()
    expected, *_ = np.linalg.lstsq(columns, target, rcond=None)
    assert (fit.a, fit.b) == pytest.approx(tuple(expected), rel=1e-6)
    left = np.linalg.norm(columns @ expected - target) / np.linalg.norm(target)
    assert fit.residual == pytest.approx(left, rel=1e-6)


def test_constants_are_not_negative():
    assert GradientDeviation.fit(table(-1e5, 0.3)).a == 0
    assert GradientDeviation.fit(table(2e5, -0.01)).b == 0
    assert GradientDeviation.fit(0 * table(1, 1)) == (0, 0, 0)


def test_rounds_without_numbers_are_skipped():
    metrics = table(2e5, 0.3)
    metrics.loc[3, "drift"] = np.nan
    metrics.loc[5, "deviation_squared"] = np.inf
    assert GradientDeviation.fit(metrics).a == pytest.approx(2e5)


@pytest.mark.parametrize("metrics", [table(1, 1).iloc[:1], table(1, 1)[["round"]], pd.DataFrame()])
def test_too_little_says_what_is_needed(metrics):
    with pytest.raises(
        rs.ConfigError, match="at least 2 rounds with drift, deviation_loss, deviation_squared"
    ):
        GradientDeviation.fit(metrics)


def test_a_run():
    fit = GradientDeviation.fit(digits(rounds=6, probes=(GradientDeviation(),)).run(None).metrics)
    assert min(fit) >= 0
    assert max(fit[:2]) > 0
    assert fit.residual < 1
