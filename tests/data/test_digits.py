"""Digits: a fixed, balanced split of real images, and copies that are the same every time."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from raysim.core.plugin import ConfigError
from raysim.data import Digits


def test_sizes_types_and_normalisation():
    data = Digits().load()
    assert data.x_train.shape == (1437, 1, 8, 8)
    assert data.x_test.shape == (360, 1, 8, 8)
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    assert data.outputs == 10
    assert abs(data.x_train.mean()) < 1e-5
    assert abs(data.x_train.std() - 1) < 1e-5


def test_training_and_test_images_are_together_the_whole_set():
    data = Digits().load()
    raw, label = load_digits(return_X_y=True)
    scale = raw.std() / data.x_train.std()  # both unknown to this test but for their order of magnitude
    assert 4 < scale < 8
    ours = np.concatenate([data.x_train, data.x_test]).reshape(1797, 64)
    y = np.concatenate([data.y_train, data.y_test])
    level = np.rint((ours - ours.min()) / (ours.max() - ours.min()) * 16)
    assert sorted(map(bytes, np.column_stack([level, y]).astype(np.uint8))) == sorted(
        map(bytes, np.column_stack([raw, label]).astype(np.uint8))
    )


@pytest.mark.parametrize("test", [10, 360, 1000])
def test_the_test_is_balanced(test):
    data = Digits(test=test).load()
    share = np.bincount(data.y_test) - test * np.bincount(np.concatenate([data.y_train, data.y_test])) / 1797
    assert len(data.y_test) == test
    assert np.abs(share).max() < 1


def test_copies_make_29_examples_for_each_of_1000_clients():
    plain, data, again = Digits().load(), Digits(copies=20).load(), Digits(copies=20).load()
    assert len(data.x_train) == len(data.y_train) == 28_740
    assert data.x_train.tobytes() == again.x_train.tobytes()
    assert np.array_equal(data.x_train[:1437], plain.x_train)
    assert np.array_equal(data.x_test, plain.x_test)
    assert np.array_equal(data.y_train, np.tile(plain.y_train, 20))


def test_copies_are_moved_a_little():
    data = Digits(copies=3).load()
    first, second, third = data.x_train.reshape(3, 1437, 64)
    for moved in (second, third):
        like = [np.corrcoef(a, b)[0, 1] for a, b in zip(first[:200], moved[:200], strict=True)]
        assert 0.5 < np.mean(like) < 0.95
    assert not np.allclose(second, third)
    level = np.array([part.min(1) for part in (first, second)])
    assert level.min() >= first.min() - 1e-5  # nothing darker than the background


def test_copies_are_the_first_of_more_copies():
    assert np.array_equal(Digits(copies=5).load().x_train[: 2 * 1437], Digits(copies=2).load().x_train)


@pytest.mark.parametrize("fields", [{"copies": 0}, {"copies": 1.5}, {"test": 5}, {"test": 1797}])
def test_bad_fields(fields):
    with pytest.raises(ConfigError, match=f"Digits.{next(iter(fields))}"):
        Digits(**fields)
