"""Synthetic sets: the mathematics they promise."""

import numpy as np
import pytest

from raysim.core.plugin import ConfigError
from raysim.data import Logistic, Quadratic, Teacher
from raysim.data.partitions import ByGroup

HARD = Quadratic(
    clients=6, dimension=8, examples=20, condition=100.0, heterogeneity=3.0, curvature_spread=1.0
)


def per_client(data):
    for index in ByGroup().split(data, 0):
        yield data.x_train[index].astype(np.float64), data.y_train[index, 0].astype(np.float64)


def test_quadratic_curvature_is_exact():
    hessians = [x.T @ x / len(x) for x, _ in per_client(Quadratic(dimension=6, condition=50.0).load())]
    for hessian in hessians:
        np.testing.assert_allclose(hessian, hessians[0], atol=1e-6)
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian), np.geomspace(1 / 50, 1, 6), rtol=1e-4)
    assert np.abs(hessians[0] - np.diag(np.diag(hessians[0]))).max() > 0.01  # not along the axes


def test_quadratic_curvatures_spread_and_share_eigenvectors():
    hessians = [x.T @ x / len(x) for x, _ in per_client(HARD.load())]
    a, b = hessians[:2]
    assert np.abs(a - b).max() > 0.05
    np.testing.assert_allclose(a @ b, b @ a, atol=1e-6)


@pytest.mark.parametrize("problem", [Quadratic(), HARD, Quadratic(clients=1, dimension=1, examples=1)])
def test_quadratic_optimum_equals_least_squares(problem):
    data = problem.load()
    expected = np.linalg.lstsq(
        data.x_train.astype(np.float64), data.y_train[:, 0].astype(np.float64), rcond=None
    )[0]
    assert data.optimum.dtype == np.float64
    np.testing.assert_allclose(data.optimum, expected, rtol=1e-8)
    x, y = data.x_train.astype(np.float64), data.y_train[:, 0].astype(np.float64)
    assert np.abs(x.T @ (x @ data.optimum - y)).max() < 1e-10 * len(x)


def test_quadratic_client_objectives_are_the_promised_parabolas():
    for x, y in per_client(HARD.load()):
        centre = np.linalg.lstsq(x, y, rcond=None)[0]
        hessian = x.T @ x / len(x)
        w = np.arange(8.0)
        loss = 0.5 * np.mean((x @ w - y) ** 2)
        assert loss == pytest.approx(0.5 * (w - centre) @ hessian @ (w - centre), rel=1e-5)


@pytest.mark.parametrize("heterogeneity", [0.0, 2.5])
def test_quadratic_heterogeneity_is_the_distance_of_the_optima(heterogeneity):
    data = Quadratic(clients=7, heterogeneity=heterogeneity).load()
    optima = np.stack([np.linalg.lstsq(x, y, rcond=None)[0] for x, y in per_client(data)])
    distance = np.sqrt(np.mean(np.sum((optima - data.optimum) ** 2, 1)))
    assert distance == pytest.approx(heterogeneity, rel=1e-4, abs=1e-4)
    np.testing.assert_allclose(optima.mean(0), data.optimum, atol=1e-4)
    assert np.linalg.norm(data.optimum) == pytest.approx(1, rel=1e-4)


def test_quadratic_needs_full_rank():
    with pytest.raises(ConfigError, match=r"Quadratic\.examples must be at least the dimension, 10"):
        Quadratic(dimension=10, examples=9)


def test_teacher_answers_with_its_network():
    teacher = Teacher(dimension=7, width=3, examples=50, test=20)
    data = teacher.load()
    w, a = (part.numpy() for part in teacher.network())
    np.testing.assert_allclose(np.linalg.norm(w, axis=1), 1)
    assert set(np.abs(a)) == {1.0}
    expected = np.maximum(data.x_test.astype(np.float64) @ w.T, 0) @ a / np.sqrt(3)
    np.testing.assert_allclose(data.y_test[:, 0], expected, atol=1e-6)
    assert data.y_train.shape == (50, 1)


def test_teacher_options():
    on_sphere = Teacher(sphere=True).load()
    np.testing.assert_allclose(np.linalg.norm(on_sphere.x_train, axis=1), 1, rtol=1e-5)
    assert Teacher(positive=True).load().y_test.min() >= 0
    assert Teacher().load().y_test.min() < 0
    clean, noisy = Teacher().load(), Teacher(noise=0.5).load()
    assert np.std(noisy.y_train - clean.y_train) == pytest.approx(0.5, rel=0.1)
    np.testing.assert_array_equal(noisy.y_test, clean.y_test)


def test_logistic_labels_follow_the_model():
    """The log-odds that Newton's method finds are the client's own w, up to the error of 40,000 examples."""
    problem = Logistic(clients=2, dimension=3, examples=40_000, scale=1.0, heterogeneity=1.0)
    found = [_newton(x, y) for x, y in ((x, y) for x, y in _labelled(problem.load()))]
    again = [_newton(x, y) for x, y in _labelled(Logistic(**{**vars(problem), "heterogeneity": 0.0}).load())]
    assert np.linalg.norm(found[0] - found[1]) > 0.5
    np.testing.assert_allclose(again[0], again[1], atol=0.1)


def _labelled(data):
    for index in ByGroup().split(data, 0):
        yield data.x_train[index].astype(np.float64), data.y_train[index]


def _newton(x, y):
    w = np.zeros(x.shape[1])
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ w))
        w = w - np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x, x.T @ (p - y))
    return w


def test_logistic_shapes_and_scale():
    data = Logistic(clients=3, examples=2000, test=100).load()
    assert data.x_train.shape == (6000, 10)
    assert data.x_test.shape == (100, 10)
    assert data.outputs == 2
    np.testing.assert_array_equal(np.bincount(data.groups), 2000)
    assert data.x_train.var() == pytest.approx(10, rel=0.03)
    assert set(np.unique(data.y_train)) == {0, 1}


@pytest.mark.parametrize("kind", [Quadratic, Logistic])
def test_a_client_does_not_depend_on_how_many_there_are(kind):
    few, many = kind(clients=2, examples=30).load(), kind(clients=5, examples=30).load()
    np.testing.assert_allclose(few.x_train, many.x_train[:60], atol=1e-6)


@pytest.mark.parametrize("kind", [Quadratic, Logistic, Teacher])
def test_the_seed_decides_and_nothing_else(kind):
    first, again, other = kind(examples=30).load(), kind(examples=30).load(), kind(examples=30, seed=1).load()
    assert first.x_train.tobytes() == again.x_train.tobytes()
    assert first.y_train.tobytes() == again.y_train.tobytes()
    assert not np.array_equal(first.x_train, other.x_train)
