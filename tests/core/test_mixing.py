"""Mixing: sparse rows equal dense ones, wherever they live, to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.sparse import csr_array

from raysim.core import mixing as module
from raysim.core.mixing import Mixing, mix
from raysim.core.rows import RowStore

IDS = np.array([2, 3, 5, 8, 13, 21, 34])
N, P = len(IDS), 19


def matrix(seed=0, density=0.5):
    """Any weights, an empty row among them: mixing itself asks for no stochastic matrix."""
    rng = np.random.Generator(np.random.PCG64(seed))
    W = rng.standard_normal((N, N)) * (rng.random((N, N)) < density)
    W[seed % N] = 0
    return W


def rows(seed=0):
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal((N, P))).float()


def store_of(ids, rows_NP, order=None):
    """A host with these clients, admitted in some order, and one more that takes no part."""
    store = RowStore()
    store.admit(np.array([99]))
    store.admit(np.asarray(ids if order is None else order))
    for i in ids:
        held, slots = store.checkout(np.array([i]), "model", torch.zeros(P))
        held.copy_(rows_NP[np.searchsorted(IDS, i)])
        if slots is not None:
            store.write("model", held, slots)
    return store


def mixed(W, rows_NP):
    """All on one host."""
    store = store_of(IDS, rows_NP)
    mix(store, "model", Mixing.of(csr_array(W), IDS), np.empty(0, np.int64), None)
    return store.pick("model", IDS)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk", [1, 200, 8 << 20])
def test_equals_the_dense_product(seed, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    W, x_NP = matrix(seed), rows(seed)
    np.testing.assert_allclose(mixed(W, x_NP), W @ x_NP.double().numpy(), rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.lists(st.booleans(), min_size=N, max_size=N), st.permutations(range(N)))
def test_bits_do_not_depend_on_how_rows_are_spread(seed, second, order):
    """Two hosts, clients admitted in any order, each with the other's rows that it needs as its halo."""
    W, x_NP = matrix(seed), rows(seed)
    expected = mixed(W, x_NP)
    whole, second = Mixing.of(csr_array(W), IDS), np.array(second)
    for here in (second, ~second):
        ids = IDS[here]
        if not len(ids):
            continue
        store = store_of(ids, x_NP, [i for i in IDS[list(order)] if i in ids])
        part = whole.part(np.flatnonzero(here))
        far = np.setdiff1d(part.neighbour_E, ids)
        halo = x_NP[torch.from_numpy(np.searchsorted(IDS, far))] if len(far) else None
        for _ in range(2):  # the second time in the memory that the first one left
            fresh = store_of(ids, x_NP)
            put, slots = store.checkout(ids, "model", torch.zeros(P))
            put.copy_(fresh.pick("model", ids))
            if slots is not None:
                store.write("model", put, slots)
            mix(store, "model", part, far, halo)
            assert torch.equal(store.pick("model", ids), expected[torch.from_numpy(here)])
        assert not store.pick("model", np.array([99])).any()


def test_rows_of_a_mixing():
    W = np.array([[0.5, 0, 0.5], [0, 0, 0], [0.25, 0.5, 0.25]])
    whole = Mixing.of(csr_array(W), np.array([4, 7, 9]))
    assert whole.start_C.tolist() == [0, 2, 2, 5]
    assert whole.neighbour_E.tolist() == [4, 9, 4, 7, 9]
    assert whole.weight_E.tolist() == [0.5, 0.5, 0.25, 0.5, 0.25]
    part = whole.part(np.array([2, 0]))
    assert part.ids_C.tolist() == [9, 4]
    assert part.start_C.tolist() == [0, 3, 5]
    assert part.neighbour_E.tolist() == [4, 7, 9, 4, 9]
    assert part.weight_E.tolist() == [0.25, 0.5, 0.25, 0.5, 0.5]
    assert whole.part(np.array([], np.int64)).start_C.tolist() == [0]


def test_messages_are_counted_where_a_row_goes_to_others():
    """Column by column: how many others weigh this client; a stored zero is no link, the own share no message."""
    W = csr_array(np.array([[0.5, 0.2, 0.3], [0, 1, 0], [0.1, 0.4, 0.5]]))
    W.data[1] = 0.0
    assert Mixing.of(W, np.array([4, 7, 9])).messages().tolist() == [1, 1, 1]
    assert Mixing.of(csr_array(np.eye(3)), np.array([4, 7, 9])).messages().tolist() == [0, 0, 0]


def test_a_topologys_matrix_is_left_alone():
    W = csr_array((np.array([1.0, 0.0, 2.0]), np.array([2, 1, 0]), np.array([0, 3, 3, 3])), shape=(3, 3))
    Mixing.of(W, np.arange(3))
    assert W.indices.tolist() == [2, 1, 0]
    assert W.data.tolist() == [1, 0, 2]
