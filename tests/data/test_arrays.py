"""Own arrays: what is made of them, and how wrong ones are refused."""

import numpy as np
import pytest
import torch

from raysim.core import streams
from raysim.core.interfaces import DataError
from raysim.core.losses import CrossEntropy, SquaredError
from raysim.core.plugin import ConfigError
from raysim.data import Arrays, Npz

LABELS = np.array([0, 2, 1, 2])


def floats(*shape):
    return streams.normal(streams.key(3, "floats"), *shape).numpy()


def arrays(**fields):
    return Arrays(
        **{"x_train": floats(4, 5), "y_train": LABELS, "x_test": floats(2, 5), "y_test": LABELS[:2], **fields}
    )


def test_integer_targets_are_labels():
    data = arrays(x_train=floats(4, 5).astype(np.float64)).load()
    assert data.x_train.dtype == np.float32
    assert data.y_train.dtype == np.int64
    assert data.loss == CrossEntropy()
    assert data.outputs == 3
    assert arrays(classes=7).load().outputs == 7
    np.testing.assert_array_equal(data.x_train, floats(4, 5))


def test_float_targets_are_regressed_on():
    data = arrays(y_train=LABELS * 0.5, y_test=LABELS[:2] * 0.5).load()
    assert data.y_train.shape == (4, 1)
    assert data.y_train.dtype == np.float32
    assert data.loss == SquaredError()
    assert data.outputs == 1
    assert arrays(y_train=floats(4, 3), y_test=floats(2, 3)).load().outputs == 3


def test_torch_tensors_are_taken_too():
    given = {"x_train": torch.tensor(floats(4, 5), requires_grad=True), "y_train": torch.tensor(LABELS)}
    np.testing.assert_array_equal(arrays(**given).load().x_train, arrays().load().x_train)
    half = {
        "x_train": torch.ones(4, 5, dtype=torch.bfloat16),
        "x_test": torch.ones(2, 5, dtype=torch.bfloat16),
    }
    assert arrays(**half).load().x_train.dtype == np.float32


def test_bytes_are_images():
    image = streams.integers(streams.key(0), 256, 4, 6, 7, 3).numpy().astype(np.uint8)
    data = arrays(x_train=image, x_test=image[:2]).load()
    assert data.x_train.shape == (4, 3, 6, 7)
    np.testing.assert_allclose(data.x_train.mean((0, 2, 3)), 0, atol=1e-6)
    plain = arrays(x_train=image, x_test=image[:2], normalize=False).load()
    np.testing.assert_allclose(plain.x_test, np.moveaxis(image[:2], 3, 1) / 255, atol=1e-7)
    regression = arrays(x_train=image, x_test=image[:2], y_train=floats(4, 2), y_test=floats(2, 2)).load()
    assert regression.x_train.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_integers_of_one_shape_are_tokens(dtype):
    tokens = streams.integers(streams.key(0), 30, 4, 9).numpy().astype(dtype)
    tokens[0, 0] = 40
    data = Arrays(tokens[:, :-1], tokens[:, 1:], tokens[:2, :-1], tokens[:2, 1:]).load()
    assert data.x_train.dtype == data.y_train.dtype == np.int64
    assert data.outputs == 41


def test_owners_are_numbered_by_name():
    np.testing.assert_array_equal(arrays(groups=["bo", "al", "bo", "cy"]).load().groups, [1, 0, 1, 2])
    np.testing.assert_array_equal(arrays(groups=np.array([70, 70, -1, 5])).load().groups, [2, 2, 0, 1])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"x_train": [[1.0] * 5] * 4}, "x_train must be a numpy array or a torch tensor, got tuple"),
        ({"x_train": np.full((4, 5), "a")}, "x_train must hold floats or integers"),
        ({"x_train": np.array([[1.0, np.nan]] * 4)}, "x_train has 4 values that are NaN"),
        (
            {"x_test": floats(2, 6)},
            r"x_train and x_test must have examples of one shape, got \(5,\) and \(6,\)",
        ),
        ({"x_test": np.zeros((2, 5), np.uint8)}, "must hold one kind of number, got float32 and uint8"),
        ({"x_train": floats(4)}, r"at least one example and two axes, got shape \(4,\)"),
        ({"x_test": floats(0, 5), "y_test": LABELS[:0]}, "at least one example"),
        ({"y_train": LABELS[:3]}, "one row for each of the 4 examples"),
        ({"y_test": LABELS[:2] * 0.5}, "must hold one kind of number, got int64 and float64"),
        ({"y_train": LABELS[:, None], "y_test": LABELS[:2, None]}, "means next tokens"),
        ({"y_train": LABELS - 1}, "count from 0, got -1"),
        ({"classes": 2}, "largest label is 2"),
        ({"classes": 0}, "Arrays.classes must be greater than"),
        ({"loss": SquaredError()}, "needs float targets"),
        (
            {"y_train": LABELS * 1.0, "y_test": LABELS[:2] * 1.0, "loss": CrossEntropy()},
            "needs integer labels",
        ),
        ({"y_train": LABELS * 1.0, "y_test": LABELS[:2] * 1.0, "classes": 3}, "nothing is classified"),
        ({"groups": [1, 2]}, "owner of each of the 4"),
        ({"groups": floats(4)}, "by an integer or a word"),
        ({"loss": "cross"}, "Arrays.loss"),
    ],
)
def test_bad_arrays(fields, says):
    with pytest.raises(ConfigError, match=says):
        arrays(**fields)


def test_npz_equals_arrays(tmp_path):
    given = {"x_train": floats(4, 5), "y_train": LABELS, "x_test": floats(2, 5), "y_test": LABELS[:2]}
    np.savez(tmp_path / "set.npz", **given, groups=np.array([1, 1, 0, 0]))
    data, expected = Npz(tmp_path / "set.npz", classes=4).load(), arrays(groups=[1, 1, 0, 0]).load()
    for name in (*given, "groups"):
        np.testing.assert_array_equal(getattr(data, name), getattr(expected, name))
    assert data.outputs == 4
    assert Npz(tmp_path / "set.npz") == Npz(str(tmp_path / "set.npz"))


def test_npz_says_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match=r"No file at /.*nothing\.npz"):
        Npz(tmp_path / "nothing.npz").load()
    np.savez(tmp_path / "half.npz", x_train=floats(2, 2), labels=LABELS)
    with pytest.raises(DataError, match="lacks y_train, x_test, y_test; it holds x_train, labels"):
        Npz(tmp_path / "half.npz").load()
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"text\.npz is not an \.npz archive"):
        Npz(tmp_path / "text.npz").load()
    np.save(tmp_path / "one.npy", floats(2, 2))
    with pytest.raises(DataError, match="is not an"):
        Npz(tmp_path / "one.npy").load()
    np.savez(
        tmp_path / "bad.npz", x_train=floats(2, 2), y_train=LABELS, x_test=floats(2, 2), y_test=LABELS[:2]
    )
    with pytest.raises(DataError, match=r"bad\.npz: Arrays.y_train must have one row"):
        Npz(tmp_path / "bad.npz").load()


def test_pickled_objects_are_never_read(tmp_path):
    things = np.array([{}, {}], dtype=object)
    np.savez(tmp_path / "objects.npz", x_train=things, y_train=things, x_test=things, y_test=things)
    with pytest.raises(DataError, match="plain arrays"):
        Npz(tmp_path / "objects.npz").load()


def test_npz_path_must_be_text():
    with pytest.raises(ConfigError, match=r"Npz\.path"):
        Npz(3)
