"""Partitions: the laws that all of them keep, then what each one promises."""

import time

import numpy as np
import pytest
import torch

from raysim.core.interfaces import Dataset
from raysim.core.losses import CrossEntropy, SquaredError
from raysim.core.plugin import ConfigError
from raysim.data import Digits, partitions
from raysim.data.partitions import IID, ByGroup, Dirichlet, Explicit, LabelShards, Sizes, SortedMix


def labelled(n=1000, classes=10, groups=None):
    """Labels in a fixed disorder, every class equally often if ``classes`` divides ``n``."""
    y = np.arange(n) * 7919 % n % classes
    x = np.zeros((n, 1), np.float32)
    return Dataset(x, y, x[:1], y[:1], loss=CrossEntropy(), outputs=classes, groups=groups)


DATA = labelled(groups=np.arange(1000) ** 2 % 37)
EXAMPLES = {
    "IID": [IID(1), IID(7), IID(1000)],
    "Dirichlet": [
        Dirichlet(7, 0.3),
        Dirichlet(300, 1e-3),
        Dirichlet(1000, 0.1),
        Dirichlet(50, 1e4),
        Dirichlet(50, 0.01, 15),
    ],
    "LabelShards": [LabelShards(7), LabelShards(1, 1), LabelShards(250, 4)],
    "SortedMix": [
        SortedMix(7, 0.5),
        SortedMix(1000, 0.3),
        SortedMix(9, 0.0),
        SortedMix(3, 1.0),
        SortedMix(600, 0.95),
    ],
    "Sizes": [Sizes(7), Sizes(1000, 2.0), Sizes(13, 0.0)],
    "ByGroup": [ByGroup()],
    "Explicit": [Explicit([np.arange(0, 1000, 2), np.arange(999, 0, -2)])],
}
ALL = [pytest.param(p, id=f"{name}-{i}") for name, group in EXAMPLES.items() for i, p in enumerate(group)]


def test_every_partition_has_examples():
    assert set(EXAMPLES) == set(partitions.__all__)


@pytest.mark.parametrize("partition", ALL)
def test_disjoint_complete_sorted_and_nobody_is_empty(partition):
    shards = partition.split(DATA, seed=3)
    assert all(s.dtype == np.int64 and len(s) for s in shards)
    assert all((np.diff(s) > 0).all() for s in shards)
    np.testing.assert_array_equal(np.sort(np.concatenate(shards)), np.arange(1000))
    assert len(shards) == (getattr(partition, "clients", None) or len(shards))


@pytest.mark.parametrize("partition", ALL)
def test_the_seed_decides_and_nothing_else(partition):
    first, again = partition.split(DATA, seed=3), partition.split(DATA, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = partition.split(DATA, seed=4)
    same = all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert same == (isinstance(partition, (ByGroup, Explicit)) or len(first) == 1)


@pytest.mark.parametrize(
    "partition",
    [
        IID(1001),
        Dirichlet(1001, 1.0),
        Dirichlet(100, 1.0, 11),
        LabelShards(501),
        SortedMix(1001),
        Sizes(1001),
    ],
)
def test_more_clients_than_examples(partition):
    with pytest.raises(
        ConfigError, match=r"needs at least \d+ training examples .* but the data set has 1000"
    ):
        partition.split(DATA, 0)


@pytest.mark.parametrize("partition", [Dirichlet(3, 1.0), LabelShards(3), SortedMix(3)])
def test_labels_are_needed(partition):
    y = np.zeros((50, 1), np.float32)
    with pytest.raises(ConfigError, match=r"goes by class labels, but .* numbers to predict .*Use IID"):
        partition.split(Dataset(y, y, y, y, loss=SquaredError(), outputs=1), 0)
    tokens = np.zeros((50, 9), np.int64)
    with pytest.raises(ConfigError, match="sequences of tokens"):
        partition.split(Dataset(tokens, tokens, tokens, tokens, loss=CrossEntropy(), outputs=3), 0)


@pytest.mark.parametrize("partition", [IID(3), Sizes(3)])
def test_targets_may_be_anything(partition):
    y = np.zeros((50, 1), np.float32)
    assert len(partition.split(Dataset(y, y, y, y, loss=SquaredError(), outputs=1), 0)) == 3


@pytest.mark.parametrize(
    "build", [lambda: IID(0), lambda: Dirichlet(3, 0.0), lambda: SortedMix(3, 1.5), lambda: Sizes(3, -1.0)]
)
def test_bad_fields(build):
    with pytest.raises(ConfigError, match="must be"):
        build()


def label_counts(data, shards):
    return np.stack([np.bincount(data.y_train[s], minlength=data.outputs) for s in shards])


def test_iid_is_even_and_random():
    sizes = [len(s) for s in IID(7).split(DATA, 0)]
    assert max(sizes) - min(sizes) == 1
    assert label_counts(DATA, IID(10).split(DATA, 0)).std() > 1  # not dealt class by class


def test_dirichlet_is_uniform_for_large_alpha():
    data = labelled(20_000)
    count = label_counts(data, Dirichlet(10, 1e5).split(data, 0))
    assert np.abs(count - 200).max() < 20


def test_dirichlet_gives_single_labels_for_small_alpha():
    data = labelled(20_000)
    shards = Dirichlet(10, 1e-4, min_examples=0).split(data, 0)
    count = label_counts(data, shards)
    assert (count.max(0) == 2000).all()  # each class has one owner
    filled = Dirichlet(30, 1e-4).split(data, 0)
    assert (np.count_nonzero(label_counts(data, filled), axis=1) == 1).sum() >= 20
    assert sorted(len(s) for s in filled)[:20] == [1] * 20


def test_dirichlet_proportions_have_the_right_mean_and_variance():
    """Var p = (1/N)(1 - 1/N) / (N alpha + 1) for one of N symmetric Dirichlet shares."""
    data, clients, alpha = labelled(50_000), 5, 0.7
    share = np.concatenate(
        [label_counts(data, Dirichlet(clients, alpha, 0).split(data, seed)).T / 5000 for seed in range(60)]
    )
    assert share.var() == pytest.approx(0.2 * 0.8 / (clients * alpha + 1), rel=0.1)
    np.testing.assert_allclose(share.mean(0), 0.2, atol=0.03)


def test_dirichlet_fills_up_from_the_largest_only():
    data = labelled(1000)
    before = np.array([len(s) for s in Dirichlet(40, 0.05, 0).split(data, 1)])
    after = np.array([len(s) for s in Dirichlet(40, 0.05, 10).split(data, 1)])
    assert (before < 10).any()
    np.testing.assert_array_equal(after[before < 10], 10)
    level = after[after < before].max()
    assert after[after < before].min() >= level - 1
    np.testing.assert_array_equal(
        after[(before >= 10) & (before < level)], before[(before >= 10) & (before < level)]
    )


def test_dirichlet_may_leave_clients_empty():
    shards = Dirichlet(300, 1e-3, min_examples=0).split(DATA, 0)
    assert len(shards) == 300
    assert min(len(s) for s in shards) == 0
    assert sum(len(s) for s in shards) == 1000


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_label_shards_hold_few_labels(labels):
    count = label_counts(DATA, LabelShards(20, labels).split(DATA, 0))
    assert np.ptp(count.sum(1)) <= (labels if labels == 3 else 0)  # 60 shards of 16 or 17
    held = np.count_nonzero(count, axis=1)
    assert held.max() <= (labels if labels != 3 else 6)  # such a shard may span two of the ten labels
    if labels == 2:
        assert held.max() == 2


def test_sorted_mix_from_sorted_to_iid():
    np.testing.assert_array_equal(label_counts(DATA, SortedMix(10, 0.0).split(DATA, 0)), 100 * np.eye(10))
    half = label_counts(DATA, SortedMix(10, 0.5).split(DATA, 0))
    np.testing.assert_array_equal(half.sum(1), 100)
    assert np.diag(half).min() > 40
    assert np.diag(half).max() < 70
    assert np.diag(label_counts(DATA, SortedMix(10, 1.0).split(DATA, 0))).max() < 25


@pytest.mark.parametrize("clients", [7, 13, 600])
@pytest.mark.parametrize("fraction", [0.0, 0.111, 0.5, 0.97, 1.0])
def test_sorted_mix_is_even(clients, fraction):
    sizes = [len(s) for s in SortedMix(clients, fraction).split(DATA, 0)]
    assert max(sizes) - min(sizes) <= 1


def test_sizes_follow_the_power_law():
    data = labelled(100_000)
    sizes = np.array([len(s) for s in Sizes(20, 1.5).split(data, 0)])
    np.testing.assert_allclose(sizes / sizes[0], np.arange(1.0, 21) ** -1.5, rtol=0.02)
    assert np.ptp([len(s) for s in Sizes(20, 0.0).split(data, 0)]) == 0


def test_by_group_keeps_the_largest():
    groups = np.array([5, 5, 5, -2, 9, 9, 9, 7, 7, 1])
    data = labelled(10, groups=groups)
    everyone = ByGroup().split(data, 0)
    assert [list(s) for s in everyone] == [[3], [9], [0, 1, 2], [7, 8], [4, 5, 6]]
    assert [list(s) for s in ByGroup(3).split(data, 0)] == [[0, 1, 2], [7, 8], [4, 5, 6]]
    assert [list(s) for s in ByGroup(1).split(data, 0)] == [[0, 1, 2]]
    with pytest.raises(ConfigError, match=r"ByGroup.clients is 6, but the data have 5 owners"):
        ByGroup(6).split(data, 0)
    with pytest.raises(ConfigError, match="ByGroup needs data with natural owners"):
        ByGroup().split(labelled(10), 0)


def test_explicit_takes_what_it_is_given():
    given = Explicit([[5, 3], torch.tensor([0]), np.array([9, 8], np.int32), (1,)])
    assert [list(s) for s in given.split(labelled(10), 0)] == [[3, 5], [0], [8, 9], [1]]
    assert [list(s) for s in Explicit(np.array([[1, 0], [2, 3]])).split(labelled(10), 0)] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("indices", "says"),
    [
        ([[0, 1], [1, 2]], "no example twice, but 1 occur more than once, first 1"),
        ([[0, 0]], "no example twice"),
        ([[0], []], r"indices\[1\] must be a vector of at least one integer"),
        ([[0.5]], "at least one integer"),
        ([[-1, 2]], "positions from 0 on, got -1"),
        ([], "is empty"),
        (5, "must be a list"),
        ("abc", "must be a list"),
    ],
)
def test_bad_index_vectors(indices, says):
    with pytest.raises(ConfigError, match=says):
        Explicit(indices)


def test_index_vectors_out_of_range():
    with pytest.raises(ConfigError, match="names example 10, but the data set has 10"):
        Explicit([[10]]).split(labelled(10), 0)


def test_a_thousand_clients_of_digits():
    data = Digits(copies=20).load()
    sizes = [len(s) for s in IID(1000).split(data, 0)]
    assert set(sizes) == {28, 29}
    assert min(len(s) for s in Dirichlet(1000, 0.3).split(data, 0)) >= 1


@pytest.mark.parametrize(
    "partition", [IID(100_000), LabelShards(100_000), SortedMix(100_000, 0.5), Sizes(100_000, 1.0)]
)
def test_a_hundred_thousand_clients_take_about_a_second(partition):
    data = labelled(300_000)
    start = time.perf_counter()
    assert len(partition.split(data, 0)) == 100_000
    assert time.perf_counter() - start < 10  # generous: a loop over examples and clients would take hours
