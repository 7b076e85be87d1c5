"""Linear regressions of a known distribution: what they promise of their inputs, targets and optimum."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core.losses import SquaredError
from raysim.core.plugin import ConfigError
from raysim.data import ComponentDecoupled, GaussianRegression
from raysim.optimizers import estimate_constants

BOTH = [ComponentDecoupled, GaussianRegression]


def test_decoupled_inputs_have_one_coordinate_of_the_promised_scale():
    scales = (2.0, 0.5, 0.1)
    data = ComponentDecoupled(scales=scales, examples=60_000, test=50).load()
    assert data.x_train.shape == (60_000, 3)
    assert data.x_train.dtype == np.float32
    assert data.x_test.shape == (50, 3)
    assert ((data.x_train != 0).sum(1) == 1).all()
    share = (data.x_train != 0).mean(0)
    np.testing.assert_allclose(share, 1 / 3, atol=0.01)
    for i, scale in enumerate(scales):
        z = data.x_train[data.x_train[:, i] != 0, i] / scale
        assert z.mean() == pytest.approx(0, abs=0.04)
        assert (z**2).mean() == pytest.approx(2, rel=0.05)
        assert (z**4).mean() == pytest.approx(12, rel=0.1)


def test_decoupled_constants_are_those_of_its_docstring():
    """Within the deviation of fourth moments of 300,000 examples."""
    found = estimate_constants(ComponentDecoupled(scales=(2.0, 0.5, 0.1), examples=300_000).load().x_train)
    assert pytest.approx(2 * 4 / 3, rel=0.03) == found.L
    assert found.mu == pytest.approx(2 * 0.01 / 3, rel=0.03)
    assert pytest.approx(24, rel=0.05) == found.L1
    assert found.kappa_tilde == pytest.approx(9, rel=0.05)


def test_gaussian_inputs_have_the_promised_spectrum():
    value = np.array([3.0, 1.0, 0.1])
    data = GaussianRegression(eigenvalues=tuple(value), examples=200_000, test=40).load()
    assert data.x_test.shape == (40, 3)
    np.testing.assert_allclose(np.cov(data.x_train.T), np.diag(value), atol=0.02)
    found = estimate_constants(data.x_train)
    assert pytest.approx(6 + 4.1, rel=0.03) == found.L1
    assert found.kappa_tilde == pytest.approx(5, rel=0.03)


@pytest.mark.parametrize("kind", BOTH)
def test_targets_fit_exactly_and_the_optimum_is_least_squares(kind):
    data = kind(examples=500).load()
    assert isinstance(data.loss, SquaredError)
    assert data.y_train.shape == (500, 1)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        np.testing.assert_allclose(x @ data.optimum, y[:, 0], atol=1e-6)
    expected = np.linalg.lstsq(data.x_train.astype(np.float64), data.y_train[:, 0], rcond=None)[0]
    np.testing.assert_allclose(data.optimum, expected, atol=1e-5)
    assert np.abs(data.optimum).min() > 0.01


def test_noise_is_on_the_training_targets_only():
    clean, noisy = GaussianRegression().load(), GaussianRegression(noise=0.5).load()
    assert np.std(noisy.y_train - clean.y_train) == pytest.approx(0.5, rel=0.05)
    np.testing.assert_array_equal(noisy.y_test, clean.y_test)
    x, y = noisy.x_train.astype(np.float64), noisy.y_train[:, 0].astype(np.float64)
    assert np.abs(x.T @ (x @ noisy.optimum - y)).max() < 1e-9 * len(x)
    assert np.abs(noisy.optimum - clean.optimum).max() > 1e-3


@pytest.mark.parametrize("kind", BOTH)
def test_the_seed_decides_and_nothing_else(kind):
    first, again, other = kind(examples=30).load(), kind(examples=30).load(), kind(examples=30, seed=1).load()
    assert first.x_train.tobytes() == again.x_train.tobytes()
    assert first.y_train.tobytes() == again.y_train.tobytes()
    assert not np.array_equal(first.x_train, other.x_train)
    assert not np.array_equal(first.optimum, other.optimum)
    assert not np.array_equal(first.x_train, first.x_test[:30])
    np.testing.assert_array_equal(kind(examples=60).load().x_train[:30], first.x_train)


@pytest.mark.parametrize("problem", [ComponentDecoupled(scales=(1.0, 0.5)), GaussianRegression((1.0, 0.5))])
def test_a_linear_model_reaches_the_optimum(problem):
    """A hundred full-batch steps shrink the distance by at least (1 - μ)^100 with μ near 1/4 and 1/2."""
    sim = rs.Simulation(
        data=problem,
        partition=rs.partitions.IID(clients=4),
        model=rs.models.Linear(bias=False),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=1.0), steps=1),
        rounds=100,
        evaluate_every=100,
    )
    optimum = torch.from_numpy(problem.load().optimum).float()
    torch.testing.assert_close(sim.run(None).x_P, optimum, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ComponentDecoupled(scales=()), r"ComponentDecoupled\.scales must not be empty"),
        (lambda: ComponentDecoupled(scales=(1.0, -1.0)), r"scales must be greater than 0"),
        (lambda: GaussianRegression(eigenvalues=()), r"GaussianRegression\.eigenvalues must not be empty"),
        (
            lambda: GaussianRegression(eigenvalues=(1.0, 0.0)),
            r"GaussianRegression\.eigenvalues must be greater than 0",
        ),
        (lambda: GaussianRegression(examples=1), "at least the number of eigenvalues, 2.*got 1"),
        (lambda: GaussianRegression(noise=-1.0), r"GaussianRegression\.noise must be greater"),
    ],
)
def test_wrong_fields_are_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()
