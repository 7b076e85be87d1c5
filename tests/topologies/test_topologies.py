"""Mixing matrices: doubly stochastic, connected, the weights of the papers, and refusals of what cannot be."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from raysim import spec, topologies as T
from raysim.core.interfaces import Topology
from raysim.core.mixing import Mixing
from raysim.core.plugin import ConfigError
from raysim.topologies import random_graphs

PLAIN = [T.Ring(), T.OneSidedRing(), T.Grid(), T.Torus(), T.StaticExponential(), T.OnePeerExponential(), T.Star(),
         T.Complete()]  # fmt: skip
RANDOM = [T.RandomRegular(2), T.RandomRegular(4, seed=3), T.ErdosRenyi(0.4), T.ErdosRenyi(1.0, seed=1)]


def dense(topology, n, round=0):
    return topology.mixing(n, round).toarray()


def check(W, n):
    """Doubly stochastic, canonical sparse, and a weight of its own for everyone."""
    assert isinstance(W, csr_array)
    assert W.shape == (n, n)
    assert W.dtype == np.float64
    assert W.has_canonical_format
    assert (W.data > 0).all()
    np.testing.assert_allclose(W.sum(0), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(W.sum(1), 1, rtol=0, atol=1e-12)
    assert (W.diagonal() > 0).all()


@pytest.mark.parametrize("topology", PLAIN, ids=repr)
@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 130), round=st.integers(0, 20))
def test_doubly_stochastic_and_connected(topology, n, round):
    topology.fit(n)
    check(topology.mixing(n, round), n)
    rounds = topology.period(n) if topology.varies else 1
    union = sum((topology.mixing(n, k) for k in range(rounds)), csr_array((n, n)))
    assert connected_components(union, connection="strong", return_labels=False) == 1


@pytest.mark.parametrize("topology", PLAIN, ids=repr)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_small_numbers_of_clients(topology, n):
    topology.fit(n)
    check(topology.mixing(n, 0), n)


@pytest.mark.parametrize("topology", RANDOM, ids=repr)
@pytest.mark.parametrize("n", [5, 6, 8, 33, 100])
def test_random_graphs_are_doubly_stochastic_and_connected(topology, n):
    topology.fit(n)
    W = topology.mixing(n, 7)
    check(W, n)
    assert connected_components(W, return_labels=False) == 1
    np.testing.assert_array_equal(W.toarray(), W.toarray().T)


def test_every_topology_is_tested():
    tested = {type(t) for t in PLAIN + RANDOM} | {T.ExplicitMixing}
    assert tested == set(spec.classes(Topology).values())


@pytest.mark.parametrize("topology", [*PLAIN[:-1], T.RandomRegular(4), T.ErdosRenyi(0.002)], ids=repr)
def test_ten_thousand_clients_stay_sparse(topology):
    W = topology.mixing(10_000, 3)
    check(W, 10_000)
    assert W.nnz < 300_000


# ---- weights written out ----------------------------------------------------------------------


def naive_metropolis(n, neighbours):
    """Weights by loops, from the neighbour sets."""
    W = np.zeros((n, n))
    for i in range(n):
        for j in neighbours[i]:
            W[i, j] = 1 / max(len(neighbours[i]) + 1, len(neighbours[j]) + 1)
        W[i, i] = 1 - W[i].sum()
    return W


def naive_sides(n):
    return max((r, n // r) for r in range(1, n + 1) if n % r == 0 and r <= n // r)


@pytest.mark.parametrize("n", [*range(1, 31), 36, 60, 97])
@pytest.mark.parametrize("wrapped", [False, True])
def test_grid_and_torus_by_hand(n, wrapped):
    rows, columns = naive_sides(n)
    neighbours = [set() for _ in range(n)]
    for r in range(rows):
        for c in range(columns):
            for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                a, b = r + dr, c + dc
                if wrapped:
                    a, b = a % rows, b % columns
                if 0 <= a < rows and 0 <= b < columns and (a, b) != (r, c):
                    neighbours[r * columns + c].add(a * columns + b)
    topology = T.Torus() if wrapped else T.Grid()
    np.testing.assert_allclose(dense(topology, n), naive_metropolis(n, neighbours), atol=1e-15)


def test_ring():
    W = dense(T.Ring(), 6)
    for i in range(6):
        for j in range(6):
            assert W[i, j] == (1 / 3 if (i - j) % 6 in (0, 1, 5) else 0)
    np.testing.assert_array_equal(dense(T.Ring(), 1), [[1]])
    np.testing.assert_array_equal(dense(T.Ring(), 2), [[0.5, 0.5], [0.5, 0.5]])


def test_one_sided_ring_receives_from_the_one_before():
    np.testing.assert_array_equal(dense(T.OneSidedRing(), 3), [[0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 20])
def test_static_exponential_has_the_powers_of_two_below_n(n):
    offsets = [i for i in range(n) if i & (i - 1) == 0]  # 0 among them, as in BlueFog
    expected = np.zeros((n, n))
    for sender in range(n):
        for offset in offsets:
            expected[(sender + offset) % n, sender] += 1 / len(offsets)
    np.testing.assert_allclose(dense(T.StaticExponential(), n), expected, atol=1e-15)


@pytest.mark.parametrize("n", [2, 3, 6, 8, 20])
def test_one_peer_exponential_sends_to_one_other(n):
    turns = int(np.ceil(np.log2(n)))
    for k in range(3 * turns):
        expected = np.eye(n) / 2
        for sender in range(n):
            expected[(sender + 2 ** (k % turns)) % n, sender] += 0.5
        np.testing.assert_array_equal(dense(T.OnePeerExponential(), n, k), expected)


@pytest.mark.parametrize("n", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("first", [0, 1, 5])
def test_one_peer_exponential_averages_exactly_in_log2_n_rounds(n, first):
    product = np.eye(n)
    for k in range(int(np.log2(n))):
        product = dense(T.OnePeerExponential(), n, first + k) @ product
    np.testing.assert_array_equal(product, np.full((n, n), 1 / n))  # powers of two: no rounding


@pytest.mark.parametrize("n", [1, 2, 5, 50])
def test_star_and_complete(n):
    expected = np.diag(np.full(n, 1 - 1 / n))
    expected[0, :] = expected[:, 0] = 1 / n
    np.testing.assert_allclose(dense(T.Star(), n), expected, atol=1e-14)
    np.testing.assert_array_equal(dense(T.Complete(), n), np.full((n, n), 1 / n))


@pytest.mark.parametrize(("degree", "n"), [(1, 2), (2, 9), (3, 10), (4, 5), (6, 200), (26, 51), (49, 50)])
def test_random_regular_has_its_degree(degree, n):
    topology = T.RandomRegular(degree)
    topology.fit(n)
    W = dense(topology, n)
    assert ((W > 0).sum(1) == degree + 1).all()
    np.testing.assert_allclose(W[W > 0], 1 / (degree + 1), atol=1e-15)


def test_erdos_renyi_has_metropolis_weights_and_its_density():
    W = dense(T.ErdosRenyi(0.2), 100)
    neighbours = [set(np.flatnonzero(row)) - {i} for i, row in enumerate(W)]
    np.testing.assert_allclose(W, naive_metropolis(100, neighbours), atol=1e-15)
    edges = sum(map(len, neighbours)) / 2
    assert abs(edges - 0.2 * 4950) < 5 * (4950 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize(
    "make", [lambda seed: T.RandomRegular(3, seed), lambda seed: T.ErdosRenyi(0.3, seed)]
)
def test_a_seed_is_a_graph(make):
    first = dense(make(1), 20)
    random_graphs._regular.cache_clear()
    random_graphs._erdos_renyi.cache_clear()
    np.testing.assert_array_equal(first, dense(make(1), 20))
    assert (first != dense(make(2), 20)).any()


def test_matrices_are_kept():
    for topology in [t for t in PLAIN + RANDOM if not t.varies]:
        assert topology.mixing(12, 0) is topology.mixing(12, 5)
    explicit = T.ExplicitMixing(np.full((3, 3), 1 / 3))
    assert explicit.mixing(3, 0) is explicit.mixing(3, 1)


@pytest.mark.parametrize("topology", [*PLAIN, T.RandomRegular(4)], ids=repr)
def test_the_engine_leaves_a_kept_matrix_as_it_was(topology):
    before = dense(topology, 12)
    Mixing.of(topology.mixing(12, 0), np.arange(12))
    np.testing.assert_array_equal(dense(topology, 12), before)


# ---- a matrix by hand -------------------------------------------------------------------------

PATH = [[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 3, 2 / 3]]


@pytest.mark.parametrize("form", [list, lambda m: tuple(map(tuple, m)), np.array, lambda m: np.array(m, np.float32),
                                  csr_array])  # fmt: skip
def test_explicit_mixing_from_lists_and_arrays(form):
    topology = T.ExplicitMixing(form(PATH))
    topology.fit(3)
    np.testing.assert_allclose(dense(topology, 3), PATH, atol=1e-7)
    assert topology == T.ExplicitMixing(form(PATH))
    assert hash(topology) == hash(T.ExplicitMixing(form(PATH)))
    assert repr(topology) == "ExplicitMixing(3 x 3)"


def test_explicit_mixing_reads_and_writes_yaml():
    built = spec.build(T.ExplicitMixing, {"matrix": [[0.5, 0.5], [0.5, 0.5]]}, "rule.topology")
    assert built == T.ExplicitMixing(np.full((2, 2), 0.5))
    assert spec._plain(built) == {"name": "ExplicitMixing", "matrix": [[0.5, 0.5], [0.5, 0.5]]}


def test_identity_and_swaps_are_allowed():
    np.testing.assert_array_equal(dense(T.ExplicitMixing(np.eye(4)), 4), np.eye(4))
    T.ExplicitMixing([[0, 1], [1, 0]])
    T.ExplicitMixing([[1]])


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ([[0.5, 0.4], [0.5, 0.5]], r"row 0 sums to 0\.9\b"),
        ([[0.9, 0.1, 0], [0.2, 0.8, 0], [0, 0, 1]], r"column 0 sums to 1\.1\b"),
        ([[1.5, -0.5], [-0.5, 1.5]], r"no negative weight, got -0\.5 in row 0, column 1"),
        ([[float("nan"), 1], [1, 0]], "got nan in row 0, column 0"),
        ([[1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]], "2 parts, and nothing passes between clients 0 and 1"),
        ([[0.5, 0.5]], r"must be square, one row and one column per client, got shape \(1, 2\)"),
        ([[0.5, 0.5], [1]], "all of one length"),
        ([["a"]], "list of rows of numbers"),
        ("ring", "list of rows of numbers"),
        ([], r"must be square"),
        (1.0, r"must be square"),
        (None, r"must be square"),
    ],
)
def test_explicit_mixing_refuses(matrix, words):
    with pytest.raises(ConfigError, match=words):
        T.ExplicitMixing(matrix)


# ---- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topology", "clients", "words"),
    [
        (T.ExplicitMixing(PATH), 4, "is 3 x 3, but there are 4 clients"),
        (T.RandomRegular(4), 4, "degree is 4, but of 4 clients each has at most 3"),
        (T.RandomRegular(1), 1, "or Ring for a single client"),
        (T.RandomRegular(3), 7, "must be even. Use degree 4"),
        (T.RandomRegular(5), 7, "must be even. Use degree 6"),
        (T.RandomRegular(1), 8, "separate pairs"),
        (T.ErdosRenyi(0.01), 100, r"None of 30 draws.*Use a larger probability, such as 0\.092"),
        (T.Complete(), 5001, "at most 5000 clients"),
    ],
)
def test_refused(topology, clients, words):
    with pytest.raises(ConfigError, match=words):
        topology.fit(clients)


def test_long_circles_rarely_come_out_connected(monkeypatch):
    monkeypatch.setattr(random_graphs, "TRIES", 2)
    words = r"None of 2 draws of RandomRegular\(degree=2, seed=0\) with 3000 clients is connected. Use a degree of"
    with pytest.raises(ConfigError, match=words):
        T.RandomRegular(2).fit(3000)


@pytest.mark.parametrize(
    ("cls", "fields", "words"),
    [
        (T.RandomRegular, {"degree": 0}, "RandomRegular.degree must be greater than or equal to 1"),
        (T.RandomRegular, {"degree": 2.5}, "RandomRegular.degree must be integer"),
        (T.RandomRegular, {"degree": 2, "seed": -1}, "RandomRegular.seed must be"),
        (T.ErdosRenyi, {"probability": 0.0}, "ErdosRenyi.probability must be greater than 0"),
        (T.ErdosRenyi, {"probability": 1.1}, "ErdosRenyi.probability must be less than or equal to 1"),
    ],
)
def test_wrong_fields(cls, fields, words):
    with pytest.raises(ConfigError, match=words):
        cls(**fields)
