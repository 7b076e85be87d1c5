"""Row store against a dictionary, under any sequence of visits and hand-overs."""

import numpy as np
import torch
from hypothesis import given, settings, strategies as st

from raysim.core.rows import RowStore

FILL = torch.tensor([1.0, 2.0])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True)),
        max_size=12,
    )
)
def test_two_hosts_keep_what_one_dictionary_does(operations):
    hosts, owner, truth = [RowStore(), RowStore()], {}, {}
    for number, (second, ids) in enumerate(operations):
        here, there = hosts[second], hosts[not second]
        moving = [i for i in ids if owner.get(i) == (not second)]
        if moving:
            here.take(np.array(moving), there.give(moving), {"a": FILL.numpy()})
        rows, slots = here.checkout(np.array(ids), "a", FILL)
        for i, row in zip(ids, rows, strict=True):
            assert torch.equal(row, truth.get(i, FILL))
        rows += number + 1
        if slots is not None:
            here.write("a", rows, slots)
        for i in ids:
            truth[i] = truth.get(i, FILL) + number + 1
            owner[i] = second
    for which, host in enumerate(hosts):
        mine = [i for i, o in owner.items() if o == which]
        if mine:
            np.testing.assert_array_equal(host.peek(mine)["a"], torch.stack([truth[i] for i in mine]).numpy())


def test_clients_admitted_together_are_a_view():
    store = RowStore()
    store.admit(np.array([5, 3, 9]))
    rows, slots = store.checkout(np.array([3, 9]), "a", FILL)
    assert slots is None
    rows[0] = 7
    assert store.peek([3])["a"].tolist() == [[7, 7]]
