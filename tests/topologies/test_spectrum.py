"""β and the spectral gap: known values, what random vectors contract by, and large graphs."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from raysim import topologies as T
from raysim.core.interfaces import Topology
from raysim.core.plugin import ConfigError
from raysim.topologies import spectrum

STATIC = [T.Ring(), T.OneSidedRing(), T.Grid(), T.Torus(), T.StaticExponential(), T.Star(), T.RandomRegular(3),
          T.ErdosRenyi(0.4, seed=2)]  # fmt: skip


@pytest.mark.parametrize(
    ("n", "ring", "grid", "exponential"),
    [
        (8, 0.8047, 0.8536, 0.5000),
        (16, 0.9493, 0.8686, 0.6000),
        (20, 0.9674, 0.9143, 0.6667),
        (32, 0.9872, 0.9658, 0.6667),
        (50, 0.9947, 0.9785, 0.7143),
        (64, 0.9968, 0.9677, 0.7143),
        (100, 0.9987, 0.9795, 0.7500),
    ],
)
def test_table(n, ring, grid, exponential):
    assert round(T.beta(T.Ring(), n), 4) == ring
    assert round(T.beta(T.Grid(), n), 4) == grid
    assert round(T.beta(T.StaticExponential(), n), 4) == exponential


def test_a_hundred_clients():
    assert round(1 / T.spectral_gap(T.Ring(), 100)) == 760
    assert round(1 / T.spectral_gap(T.Grid(), 100)) == 49
    assert 1 / T.spectral_gap(T.StaticExponential(), 100) == pytest.approx(4)


@pytest.mark.parametrize("n", [3, 4, 5, 12, 31, 130])
def test_closed_forms(n):
    assert T.beta(T.Ring(), n) == pytest.approx((1 + 2 * np.cos(2 * np.pi / n)) / 3, abs=1e-12)
    assert T.beta(T.OneSidedRing(), n) == pytest.approx(np.cos(np.pi / n), abs=1e-12)
    assert T.beta(T.Star(), n) == pytest.approx(1 - 1 / n, abs=1e-12)
    assert T.beta(T.Complete(), n) == pytest.approx(0, abs=1e-12)
    if n % 2 == 0:
        assert T.beta(T.StaticExponential(), n) == pytest.approx(1 - 2 / (np.ceil(np.log2(n)) + 1), abs=1e-12)


@pytest.mark.parametrize("topology", STATIC, ids=repr)
@pytest.mark.parametrize("n", [4, 8, 24])
def test_random_vectors_contract_by_beta(topology, n):
    """No vector keeps more of its distance to the mean than β, and the slowest keeps exactly that."""
    W, beta = topology.mixing(n, 0), T.beta(topology, n)
    assert 0 < beta < 1 or (n == 4 and type(topology).__name__ == "RandomRegular")
    x = np.random.default_rng(0).normal(size=(n, 64))
    x -= x.mean(0)
    kept = lambda x: np.linalg.norm(W @ x, axis=0) / np.maximum(np.linalg.norm(x, axis=0), 1e-300)
    np.testing.assert_allclose((W @ x).mean(0), 0, atol=1e-14)
    assert (kept(x) <= beta + 1e-12).all()
    for _ in range(2000):  # power iteration on WᵀW leaves the slowest
        x = W.T @ (W @ x)
        x -= x.mean(0)
        x /= np.maximum(np.linalg.norm(x, axis=0), 1e-300)
    if beta > 1e-9:
        np.testing.assert_allclose(kept(x), beta, rtol=1e-6)


@pytest.mark.parametrize("topology", STATIC, ids=repr)
def test_gossip_reaches_consensus_at_rate_beta(topology):
    """All of these are normal matrices, for which ||W^k x - x̄|| falls like β^k."""
    W, beta = topology.mixing(12, 0), T.beta(topology, 12)
    x = np.random.default_rng(1).normal(size=12)
    x -= x.mean()
    far = [np.linalg.norm(x)]
    for _ in range(300):
        x = W @ x
        x -= x.mean()  # rounding
        far.append(np.linalg.norm(x))
        if far[-1] < 1e-200:
            break
    k = len(far) - 1
    assert (far[k] / far[k // 2]) ** (1 / (k - k // 2)) == pytest.approx(beta, rel=0.01)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "topology", [T.Ring(), T.Grid(), T.Torus(), T.StaticExponential(), T.OnePeerExponential()]
)
def test_one_and_two_clients_average_at_once(topology, n):
    assert T.beta(topology, n) == pytest.approx(0, abs=1e-15)


def test_varying_topologies_are_measured_over_a_period():
    topology = T.OnePeerExponential()
    for n in (8, 16, 32):
        assert spectrum.period(topology, n) == int(np.log2(n))
        assert T.beta(topology, n) == 0
    product = np.linalg.multi_dot([topology.mixing(20, k).toarray() for k in (4, 3, 2, 1, 0)])
    assert T.beta(topology, 20) == pytest.approx(np.linalg.svd(product - 1 / 20)[1][0], abs=1e-12)
    assert T.beta(topology, 20, round=3) == pytest.approx(T.beta(topology, 20), abs=1e-12)  # shifts commute


def test_a_varying_topology_without_a_period_is_refused():
    class Wild(Topology):
        varies = True

    with pytest.raises(ConfigError, match=r"Wild varies from round to round but has no method period"):
        T.beta(Wild(), 3)


def test_no_mixing_and_refusals():
    assert T.beta(T.ExplicitMixing(np.eye(5)), 5) == 1
    assert T.spectral_gap(T.ExplicitMixing(np.eye(5)), 5) == 0
    assert T.beta(T.ExplicitMixing([[0, 1], [1, 0]]), 2) == 1
    with pytest.raises(ConfigError, match="3 clients"):
        T.beta(T.ExplicitMixing(np.eye(5)), 3)


@pytest.mark.parametrize("topology", [*STATIC, T.OnePeerExponential(), T.Complete()], ids=repr)
def test_lanczos_finds_what_the_dense_matrix_has(topology, monkeypatch):
    for n in (100, 128):
        exact = T.beta(topology, n)
        with monkeypatch.context() as patch:
            patch.setattr(spectrum, "DENSE", 1)
            assert T.beta(topology, n) == pytest.approx(exact, abs=1e-10)
            assert T.beta(topology, n) == T.beta(topology, n)


def test_large_graphs():
    n = 10_000
    assert T.beta(T.Torus(), n) == pytest.approx((3 + 2 * np.cos(2 * np.pi / 100)) / 5, abs=1e-12)
    assert T.beta(T.StaticExponential(), n) == pytest.approx(1 - 2 / 15, abs=1e-12)
    assert T.beta(T.RandomRegular(4), n) < (1 + 2 * 3**0.5) / 5 + 0.01  # Friedman's bound
    assert T.spectral_gap(T.Ring(), 3000) == pytest.approx(2 / 3 * (1 - np.cos(2 * np.pi / 3000)), rel=1e-4)
    assert isinstance(T.Ring().mixing(n, 0), csr_array)
