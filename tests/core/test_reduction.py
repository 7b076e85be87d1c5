"""The tree: the same bits however its leaves are spread over hosts and in whatever order they arrive."""

import random

import pytest
import torch
from hypothesis import given, settings, strategies as st

from raysim.core.reduction import Tree


@settings(max_examples=80, deadline=None)
@given(leaves=st.integers(1, 40), hosts=st.integers(1, 5), seed=st.integers(0, 999))
def test_same_bits_for_any_spread(leaves, hosts, seed):
    values = torch.rand(leaves, 3, generator=torch.Generator().manual_seed(seed))
    one = Tree(leaves)
    for i in range(leaves):
        one.add((0, i), (values[i].clone(),))
    cuts = sorted(random.Random(seed).randint(0, leaves) for _ in range(hosts - 1))
    final, nodes = Tree(leaves), []
    for a, b in zip([0, *cuts], [*cuts, leaves], strict=True):
        part = Tree(leaves)
        for i in range(a, b):
            part.add((0, i), (values[i].clone(),))
        nodes += part.nodes.items()
    random.Random(seed).shuffle(nodes)
    for node, value in nodes:
        final.add(node, value)
    assert torch.equal(one.total()[0], final.total()[0])
    torch.testing.assert_close(one.total()[0], values.sum(0))


def test_no_total_before_all_leaves():
    tree = Tree(3)
    tree.add((0, 0), (torch.ones(1),))
    tree.add((0, 2), (torch.ones(1),))
    with pytest.raises(ValueError, match="too many values"):
        tree.total()
