"""The gradient noise scale: its estimators are unbiased, its probe equals the definition, it leaves a run as it is."""

import dataclasses

import numpy as np
import pytest

import raysim as rs
from raysim.core.host import ClientError
from raysim.core.plugin import ConfigError
from tuning.regimes import noise

SPECTRUM = (1.0, 0.5, 0.25, 0.1, 0.05)


def regression(examples=2000, clients=1, batch=4, steps=5, eigenvalues=SPECTRUM, **changes):
    """Least squares on Gaussian inputs."""
    fields = {
        "data": rs.data.GaussianRegression(eigenvalues=eigenvalues, examples=examples),
        "partition": rs.partitions.IID(clients=clients),
        "model": rs.models.Linear(bias=False),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.05), steps=steps, batch_size=batch),
        "rounds": 4,
    }
    return rs.Simulation(**(fields | changes))


def gradients(simulation):
    """Every training example's gradient at the initial model, by hand, client after client."""
    data, shards = simulation.load()
    w = simulation.initial_model(data)[1].weight.detach().double().numpy().ravel()
    x, y = data.x_train.astype(float), data.y_train.astype(float).ravel()
    g = (x @ w - y)[:, None] * x
    return [g[a:b] for a, b in zip(shards.start_N[:-1], shards.start_N[1:], strict=True)]


def at_start(simulation, draws=32):
    row = simulation.replaced(probes=(noise.NoiseScale(draws),), rounds=1).run(None).metrics.iloc[1]
    return row[noise.TRACE], row[noise.SQUARE]


def test_split_inverts_the_law_of_batches():
    """E||G_b||² = ||G||² + tr(Σ)/b."""
    assert noise.split(3 + 10 / 2, 2, 3 + 10 / 50, 50) == pytest.approx((10, 3))
    with pytest.raises(ConfigError, match="two batch sizes, got 8 and 8"):
        noise.split(1.0, 8, 1.0, 8)


def test_split_is_unbiased():
    """Over 4,000 pairs of independent batches from a known Gaussian; 4 standard errors are below 4 %."""
    rng = np.random.Generator(np.random.PCG64(0))
    G, sd = np.array([1.0, -0.5, 0.25]), np.array([2.0, 1.0, 0.5])
    pairs = []
    for _ in range(4000):
        small, large = (np.square(G + sd * rng.standard_normal((b, 3)).mean(0)).sum() for b in (2, 20))
        pairs.append(noise.split(small, 2, large, 20))
    mean, error = np.mean(pairs, 0), np.std(pairs, 0) / 4000**0.5
    truth = np.array([np.square(sd).sum(), np.square(G).sum()])
    assert (np.abs(mean - truth) < 4 * error).all()
    assert (4 * error < 0.2 * truth).all()


def test_the_probe_is_the_definition_where_every_example_is_seen():
    """Batches of one through a whole epoch: Σ is the sample covariance, ||G||² is freed of its noise."""
    simulation = regression(examples=60, batch=1, steps=60)
    (g,) = gradients(simulation)
    trace = np.trace(np.cov(g.T))
    assert at_start(simulation, 60) == pytest.approx(
        (trace, np.square(g.mean(0)).sum() - trace / 60), rel=1e-4
    )


def test_the_probe_takes_the_mean_over_clients():
    simulation = regression(examples=90, clients=3, batch=1, steps=30)
    g = gradients(simulation)
    trace = np.mean([np.trace(np.cov(part.T)) for part in g])
    whole = np.square(np.mean([part.mean(0) for part in g], 0)).sum() - trace / 90
    assert at_start(simulation, 30) == pytest.approx((trace, whole), rel=1e-4)


def test_gaussian_data_have_the_exact_value():
    """x xᵀ e has the covariance (eᵀHe) H + H e eᵀ H: at e the scale is 1 + tr H (eᵀHe) / (eᵀH²e)."""
    simulation = regression(examples=20_000, batch=1, steps=8000)
    data, _ = simulation.load()
    e = simulation.initial_model(data)[1].weight.detach().numpy().ravel() - data.optimum
    H = np.array(SPECTRUM)
    exact = 1 + H.sum() * (H * e * e).sum() / (H * H * e * e).sum()
    trace, square = at_start(simulation, 8000)
    assert trace / square == pytest.approx(exact, rel=0.1)
    assert 1 + H.sum() / H.max() < exact


def test_along_looks_at_points_of_the_same_run():
    simulation = regression(rounds=20)
    scales = noise.along(simulation, points=5)
    assert len(scales) == 5
    assert (scales > 1).all()
    plain, seen = simulation.run(None), simulation.replaced(probes=(noise.NoiseScale(),)).run(None)
    assert (plain.x_P == seen.x_P).all()
    assert (plain.metrics["bits_up"] == seen.metrics["bits_up"]).all()


@pytest.mark.parametrize(("steps", "batch"), [(1, 16), (64, 4)])
def test_few_batches_a_round_are_added_up(steps, batch):
    """Steps that move nothing: the noise scale is that of the initial model's gradients all along, which 256 batches
    know well enough; quotients of single ones would be several times too large."""
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=1e-9), steps=steps, batch_size=batch)
    simulation = regression(examples=1000, rounds=256 if steps == 1 else 4, local=local)
    (g,) = gradients(simulation)
    trace = np.trace(np.cov(g.T))
    truth = trace / (np.square(g.mean(0)).sum() - trace / 1000)
    scales = noise.along(simulation, points=4)
    assert len(scales) == 4
    assert scales.mean() == pytest.approx(truth, rel=0.35)


def test_gradients_that_drown_in_noise_have_no_scale(monkeypatch):
    """||G||² below zero at 5 of 8 points: the other 3 are those that chance made large."""
    looks = iter([1.0, -1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0])
    monkeypatch.setattr(noise.NoiseScale, "measure", lambda *_: {noise.TRACE: 1.0, noise.SQUARE: next(looks)})
    with pytest.raises(ConfigError, match="too small beside its noise"):
        noise.along(regression(rounds=8, steps=64))


def test_full_batches_have_no_noise_to_measure():
    simulation = regression(rounds=1, probes=(noise.NoiseScale(),))
    full = simulation.replaced(local=dataclasses.replace(simulation.local, batch_size=None))
    with pytest.raises((ConfigError, ClientError), match="no client has more examples than a batch"):
        full.run(None)
    for batch in (2000, None):
        whole = simulation.replaced(local=dataclasses.replace(simulation.local, batch_size=batch))
        with pytest.raises(ConfigError, match="no client has more examples than a batch"):
            noise.along(whole)
