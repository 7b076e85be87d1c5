"""Streams: uniform, independent of order, the same for one key and for many."""

import math

import pytest
import torch

from raysim.core import streams

N = 200_000


def test_hash_agrees_with_splitmix64():
    """Reference values of SplitMix64 seeded with 0: the finaliser applied to multiples of the golden gamma."""
    golden = torch.tensor([1, 2, 3], dtype=torch.int64) * streams._GOLDEN
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(v) & (2**64 - 1) for v in streams.mix(golden)] == expected


def test_one_key_of_many_is_the_key_alone():
    ids = torch.tensor([3, 99, 100_000])
    stack = streams.uniform(streams.key(7, 2, "batches", ids), 5)
    for row, i in zip(stack, ids.tolist(), strict=True):
        assert torch.equal(row, streams.uniform(streams.key(7, 2, "batches", i), 5))


def test_every_part_of_a_key_matters():
    keys = [streams.key(*parts) for parts in [(0, 1, "a"), (1, 0, "a"), (0, 1, "b"), (0, 1), (0, 2, "a")]]
    assert len({int(k) for k in keys}) == 5


def test_a_prefix_does_not_depend_on_the_length():
    k = streams.key(0)
    assert torch.equal(streams.uniform(k, 10), streams.uniform(k, 1000)[:10])


def test_moments():
    """Within five standard errors of mean and variance; neighbours uncorrelated."""
    u, z = streams.uniform(streams.key(1), N), streams.normal(streams.key(2), N)
    assert abs(u.mean() - 0.5) < 5 / math.sqrt(12 * N)
    assert abs(z.mean()) < 5 / math.sqrt(N)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / N)
    for v in (u, z):
        v = (v - v.mean()) / v.std()
        assert abs((v[1:] * v[:-1]).mean()) < 5 / math.sqrt(N)
    neighbours = streams.uniform(streams.key(0, torch.arange(N)), 1)[:, 0]
    v = (neighbours - neighbours.mean()) / neighbours.std()
    assert abs((v[1:] * v[:-1]).mean()) < 5 / math.sqrt(N)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 4.0])
def test_gamma_moments(alpha):
    g = streams.gamma(streams.key(3), alpha, N)
    assert abs(g.mean() - alpha) < 5 * math.sqrt(alpha / N)
    assert abs(g.var() - alpha) < 6 * math.sqrt((2 * alpha**2 + 6 * alpha) / N)


def test_permutations_are_uniform():
    """Each of the six orders of three about equally often (chi-square with 5 degrees of freedom below 25)."""
    orders = streams.permutation(streams.key(0, torch.arange(6000)), 3)
    _, counts = torch.unique(orders @ torch.tensor([9, 3, 1]), return_counts=True)
    assert len(counts) == 6
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 25


def test_choice_is_uniform_and_distinct():
    seen = torch.zeros(10)
    for r in range(500):
        c = streams.choice(streams.key(r), 10, 4)
        assert len(set(c.tolist())) == 4
        assert c.tolist() == sorted(c.tolist())
        seen[c] += 1
    assert ((seen - 200) ** 2 / (500 * 0.4 * 0.6)).sum() < 30


def test_torch_default_is_put_back():
    before = torch.get_rng_state()
    with streams.torch_default(streams.key(5)):
        a = torch.rand(3)
    with streams.torch_default(streams.key(5)):
        b = torch.rand(3)
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())
