"""Flipped labels: of whom, into what, and nothing else."""

import numpy as np
import pytest

import raysim as rs
from raysim.core.cohorts import Shards
from raysim.core.interfaces import Dataset
from raysim.core.losses import CrossEntropy, SquaredError
from raysim.rules.averaging import local_update
from tests.attacks.heard import heard, hostile_of, some
from tests.experiments import arrays

SWAP = (1, 0, 2)  # of three classes, the first two


def wrong(mapping, y, classes):
    if mapping == "reverse":
        return classes - 1 - y
    return (y + 1) % classes if mapping == "next" else mapping[y]


@pytest.mark.parametrize("mapping", ["reverse", "next", SWAP])
def test_labels_of_hostile_clients_and_of_nobody_else(mapping):
    data, partition = arrays(), rs.partitions.IID(clients=7)
    sim = some(
        rs.attacks.LabelFlip(hostile=0.3, mapping=mapping), data=data, partition=partition, cohort=None
    )
    hostile, plain = hostile_of(sim), sim.replaced(uplink=()).load()[0]
    flipped, shards = sim.load()
    assert len(hostile) == 2
    for client in range(7):
        for e in range(shards.start_N[client], shards.start_N[client + 1]):
            y = plain.y_train[e]
            assert flipped.y_train[e] == (wrong(mapping, y, 3) if client in hostile else y)
    assert flipped.y_train.dtype == plain.y_train.dtype
    np.testing.assert_array_equal(flipped.x_train, plain.x_train)
    np.testing.assert_array_equal(flipped.x_test, plain.x_test)
    np.testing.assert_array_equal(flipped.y_test, plain.y_test)


@pytest.mark.parametrize("writeable", [True, False])
def test_arrays_that_were_loaded_are_not_written(writeable):
    """Though they are used as they are, where clients' examples already lie one after the other."""
    x, y = np.zeros((12, 2), np.float32), np.arange(12) % 3
    y.setflags(write=writeable)
    data = rs.data.Arrays(x_train=x, y_train=y, x_test=x, y_test=y)
    indices = [np.arange(4), np.arange(4, 8), np.arange(8, 12)]
    fields = {"data": data, "partition": rs.partitions.Explicit(indices=indices), "cohort": None}
    flipped, _ = some(rs.attacks.LabelFlip(hostile=(1,)), **fields).load()
    np.testing.assert_array_equal(y, np.arange(12) % 3)
    np.testing.assert_array_equal(data.load().y_train, np.arange(12) % 3)
    np.testing.assert_array_equal(flipped.y_train, [*y[:4], *(2 - y[4:8]), *y[8:]])
    assert not np.shares_memory(flipped.y_train, data.load().y_train)


def test_what_is_sent_was_learnt_from_them():
    """Rows equal, to the bit, those of data with these labels; honest clients' rows those of the truth."""
    sim = some(rs.attacks.LabelFlip(hostile=0.3), cohort=None)
    hostile, original = hostile_of(sim), sim.data.load()
    shares, y = sim.partition.split(original, sim.seed), original.y_train.copy()
    for client in hostile:
        y[shares[client]] = 9 - y[shares[client]]
    by_hand = rs.data.Arrays(original.x_train, y, original.x_test, original.y_test)
    explicit = rs.partitions.Explicit(indices=shares)
    other = sim.replaced(uplink=(), data=by_hand, partition=explicit)
    told, expected, truth = (heard(s, local_update) for s in (sim, other, sim.replaced(uplink=())))
    for a, b, c in zip(told, expected, truth, strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
        changed = a.ids[(a.rows != c.rows).any(1)].tolist()
        assert set(changed) == hostile


def test_every_next_token_of_a_text_is_a_label():
    y = np.array([[0, 1, 2], [3, 4, 4], [1, 0, 3]])
    text = Dataset(y.copy(), y, y, y, CrossEntropy(), 5)
    flip = rs.attacks.LabelFlip(hostile=(0, 2), mapping="next")
    got = flip.poison(text, Shards(np.array([0, 1, 2, 3])), 0)
    np.testing.assert_array_equal(got.y_train, [[1, 2, 3], [3, 4, 4], [2, 1, 4]])
    np.testing.assert_array_equal(got.x_train, y)


def test_mapping_twice_comes_back():
    sim = some(rs.attacks.LabelFlip(hostile=1.0), rs.attacks.LabelFlip(hostile=1.0))
    np.testing.assert_array_equal(sim.load()[0].y_train, sim.replaced(uplink=()).load()[0].y_train)


def test_real_numbers_are_refused():
    y = np.ones((3, 1), np.float32)
    numbers = Dataset(y, y, y, y, SquaredError(), 1)
    with pytest.raises(
        rs.ConfigError, match=r"this data set's targets are real numbers \(float32\). Use data with"
    ):
        rs.attacks.LabelFlip(hostile=0.5).poison(numbers, Shards(np.array([0, 1, 3])), 0)


@pytest.mark.parametrize("mapping", [(0, 1), (0, 1, 2, 3), (0, 1, 3), ()])
def test_a_mapping_of_other_classes_is_refused(mapping):
    sim = some(rs.attacks.LabelFlip(hostile=0.5, mapping=mapping), data=arrays())
    with pytest.raises(
        rs.ConfigError, match=r"LabelFlip\.mapping must name one of the classes 0 to 2 for each"
    ):
        sim.load()


@pytest.mark.parametrize("mapping", ["random", (-1, 0), 3])
def test_a_mapping_that_is_none_is_refused(mapping):
    with pytest.raises(rs.ConfigError, match=r"LabelFlip\.mapping must be 'reverse' or 'next'"):
        rs.attacks.LabelFlip(hostile=0.5, mapping=mapping)


@pytest.mark.parametrize("mapping", ["reverse", "next", tuple(range(9, -1, -1))])
def test_yaml_keeps_it(mapping):
    sim = some(rs.attacks.LabelFlip(hostile=(2, 5), mapping=mapping))
    assert rs.Simulation.from_yaml(sim.to_yaml()) == sim
