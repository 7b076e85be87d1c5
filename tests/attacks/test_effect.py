"""What attacks do to plain averaging, and what they do not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.rules.averaging import local_update
from tests.attacks.heard import heard, some


def accuracy(*uplink):
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.2), epochs=1, batch_size=16)
    fields = {"partition": rs.partitions.IID(clients=20), "local": local, "cohort": None, "rounds": 10}
    metrics = some(*uplink, **fields, evaluate_every=10, execution=rs.Execution(block=20)).run(None).metrics
    return metrics["accuracy"].iloc[-1]


@pytest.fixture(scope="module")
def honest():
    return accuracy()


@pytest.mark.parametrize(
    "attack",
    [
        rs.attacks.SignFlip(hostile=0.3, scale=5.0),
        rs.attacks.InnerProduct(hostile=0.3, scale=5.0),
        rs.attacks.Noise(hostile=0.3, std=3.0),
        rs.attacks.LabelFlip(hostile=0.7),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_averaging_is_lost(attack, honest):
    """0.7 of the truth and 5 x 0.3 of its opposite point backwards; noise drowns it; seven in ten teach the reverse."""
    assert honest > 0.8
    assert accuracy(attack) < honest / 2


def test_what_averaging_bears(honest):
    """Below scale (n - m)/m the mean still points forwards; copies of an IID client are harmless."""
    assert accuracy(rs.attacks.InnerProduct(hostile=0.3, scale=0.5)) > 0.9 * honest
    assert accuracy(rs.attacks.Mimic(hostile=0.3)) > 0.9 * honest


def test_a_boosted_client_replaces_the_model():
    """factor = 1 / its weight: with others at rest the mean is its own model, learnt from wrong labels."""
    sim = some(rs.attacks.LabelFlip(hostile=(2,)), rs.attacks.Scale(hostile=(2,), factor=13.0), cohort=None)
    (told,) = heard(sim, local_update, rounds=1)
    (alone,) = heard(sim.replaced(uplink=sim.uplink[:1]), local_update, rounds=1)
    at_rest = replace(told, parts=[told.parts[0] * torch.tensor(told.ids == 2)[:, None]])
    np.testing.assert_allclose(at_rest.rows.mean(0), alone.rows[2], rtol=1e-5, atol=1e-7)
