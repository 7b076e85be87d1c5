"""Data on the unit sphere: lengths, targets, and what cannot be put there."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import raysim as rs
from raysim.core.interfaces import Data
from raysim.core.losses import CrossEntropy, SquaredError
from raysim.data.sphere import OneHotError
from tests.experiments import arrays


def test_inputs_have_length_one_and_their_old_direction():
    raw, data = rs.data.Digits().load(), rs.data.UnitSphere(rs.data.Digits()).load()
    for before, after in ((raw.x_train, data.x_train), (raw.x_test, data.x_test)):
        assert after.dtype == np.float32
        assert after.shape == (len(before), 64)
        flat = before.reshape(len(before), -1)
        np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(after * np.linalg.norm(flat, axis=1, keepdims=True), flat, atol=1e-5)
    assert isinstance(data.loss, SquaredError)
    assert np.array_equal(data.y_train, raw.y_train)
    assert data.outputs == 10


def test_labels_keep_their_loss_and_owners_stay():
    own = arrays()
    owned = rs.data.Arrays(
        x_train=own.x_train, y_train=own.y_train, x_test=own.x_test, y_test=own.y_test, groups=np.arange(60)
    )
    data = rs.data.UnitSphere(owned, targets="labels").load()
    assert isinstance(data.loss, CrossEntropy)
    assert np.array_equal(data.groups, np.arange(60))
    regression = rs.data.UnitSphere(rs.data.Quadratic(), targets="labels").load()
    assert isinstance(regression.loss, SquaredError)
    assert regression.optimum is None  # the minimiser moved with the inputs


def test_loss_is_the_squared_distance_to_one_hot_targets():
    gen = torch.Generator().manual_seed(0)
    out, y = torch.randn(3, 5, 4, generator=gen), torch.randint(0, 4, (3, 5), generator=gen)
    target = F.one_hot(y, 4).float()
    for c in range(3):
        torch.testing.assert_close(
            OneHotError().per_example(out[c], y[c]), SquaredError().per_example(out[c], target[c])
        )
    ours = OneHotError().with_gradient(out.mT, y)
    torch.testing.assert_close(ours, SquaredError().with_gradient(out.mT, target))
    assert OneHotError().hits(target[0], y[0]).all()


def test_training_is_that_on_one_hot_targets_and_reports_accuracy():
    labels = arrays(n=40)
    sphere = rs.data.UnitSphere(labels)
    plain = sphere.load()
    targets = rs.data.Arrays(
        x_train=plain.x_train,
        y_train=np.eye(3, dtype=np.float32)[plain.y_train],
        x_test=plain.x_test,
        y_test=np.eye(3, dtype=np.float32)[plain.y_test],
    )
    runs = [
        rs.Simulation(
            data=data,
            partition=rs.partitions.IID(clients=4),
            model=rs.models.MLP(hidden=(8,)),
            local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.5), steps=2),
            rounds=5,
            execution=rs.Execution(form=form),
        ).run(None)
        for data, form in ((targets, "loop"), (sphere, "loop"), (sphere, "stacked"), (sphere, "inplace"))
    ]
    for other in runs[1:]:
        torch.testing.assert_close(other.x_P, runs[0].x_P, rtol=1e-5, atol=1e-6)
        assert "accuracy" in other.metrics


def test_written_to_a_file_and_back():
    sim = rs.Simulation(
        data=rs.data.UnitSphere(rs.data.Digits(copies=2), targets="labels"),
        partition=rs.partitions.IID(clients=4),
        model=rs.models.DeepReLU(width=8),
        local=rs.Local(
            optimizer=rs.optimizers.SGD(lr=0.1),
            steps=1,
            objective=rs.objectives.Adversarial(radius=0.1, norm="l2", clip=(-1.0, 1.0)),
        ),
    )
    assert rs.Simulation.from_yaml(sim.to_yaml()) == sim


@dataclasses.dataclass(frozen=True)
class Augmented(Data):
    def load(self):
        return dataclasses.replace(rs.data.Digits().load(), augment=lambda x, key: x)


def test_what_cannot_be_put_on_the_sphere():
    x, y = np.ones((4, 3), np.float32), np.zeros(4, np.int64)
    hole = x.copy()
    hole[2] = 0
    with pytest.raises(rs.ConfigError, match=r"1 inputs of Arrays have length 0 \(example 2 first\)"):
        rs.data.UnitSphere(rs.data.Arrays(x_train=hole, y_train=y, x_test=x, y_test=y)).load()
    tokens = np.ones((4, 3), np.int64)
    text = rs.data.Arrays(x_train=tokens, y_train=y, x_test=tokens, y_test=y)
    with pytest.raises(rs.ConfigError, match="tokens"):
        rs.data.UnitSphere(text).load()
    with pytest.raises(rs.ConfigError, match="targets='labels'"):
        rs.data.UnitSphere(rs.data.Quadratic()).load()
    with pytest.raises(rs.ConfigError, match="augment=False"):
        rs.data.UnitSphere(Augmented()).load()
    with pytest.raises(rs.ConfigError, match=r"UnitSphere\.targets"):
        rs.data.UnitSphere(rs.data.Digits(), targets="centred")
