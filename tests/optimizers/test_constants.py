"""Constants of data against closed forms and a naive estimate; the coefficients and regimes that follow from them."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

import raysim as rs
from raysim.core.plugin import ConfigError
from raysim.optimizers import Constants, estimate_constants, tangent_features

NODES, WEIGHTS = np.array([0.0, 3**0.5, -(3**0.5)]), np.array([4, 1, 1])
"""Values and multiplicities, out of six, that have the moments of N(0, 1) up to the fifth."""


def decoupled(kappa):
    """The constants of component-decoupled data with σ_1 = 1 and σ_2² = 1/κ."""
    return Constants(L=1.0, L1=6.0, mu=1 / kappa, kappa_tilde=6.0)


def normal_grid(d):
    """Points [6^d, d] whose mean moments up to the fifth are those of N(0, I)."""
    line = np.repeat(NODES, WEIGHTS)
    return np.stack(np.meshgrid(*[line] * d), -1).reshape(-1, d)


def naive(x_nod):
    """The definitions with one d x d matrix per example, by a generalised eigenvalue problem on the range of H."""
    x = np.asarray(x_nod, np.float64)
    x = x[:, None, :] if x.ndim == 2 else x
    outer = np.einsum("nod,noe->nde", x, x)
    h = outer.mean(0)
    value, vector = np.linalg.eigh(h)
    basis = vector[:, value > 1e-6 * value[-1]]
    inside = lambda m: basis.T @ m @ basis
    pinv = basis @ np.diag(1 / value[value > 1e-6 * value[-1]]) @ basis.T
    largest = lambda m: scipy.linalg.eigh(inside(m), inside(h), eigvals_only=True)[-1]
    return {
        "L": value[-1],
        "mu": value[value > 1e-6 * value[-1]][0],
        "L1": largest(np.mean([m @ m for m in outer], 0)),
        "kappa_tilde": largest(np.mean([m @ pinv @ m for m in outer], 0)),
    }


def assert_constants(found, rel=1e-8, **expected):
    assert vars(found) == pytest.approx(expected, rel=rel)


def test_closed_form_of_gaussian_inputs():
    """L1 = 2 L + tr H and κ̃ = d + 2."""
    value = np.array([3.0, 1.0, 0.2, 0.01])
    found = estimate_constants(normal_grid(4) * np.sqrt(value))
    assert_constants(found, L=3.0, mu=0.01, L1=6 + value.sum(), kappa_tilde=6.0)


def test_closed_form_of_one_hot_inputs():
    """L1 = 1 and κ̃ = max 1 / p_i."""
    count = np.array([1, 4, 5, 10])
    found = estimate_constants(np.repeat(np.eye(4), count, 0))
    assert_constants(found, L=0.5, mu=0.05, L1=1.0, kappa_tilde=20.0)


@pytest.mark.parametrize("d", [2, 5])
def test_closed_form_of_component_decoupled_inputs(d):
    """L1 = 6 max σ², κ̃ = 3 d."""
    scales, z = np.geomspace(2, 0.1, d), math.sqrt(2) * np.repeat(NODES, WEIGHTS)
    x = (z[:, None, None] * np.diag(scales)).reshape(-1, d)
    found = estimate_constants(x)
    assert_constants(found, L=8 / d, mu=0.02 / d, L1=24.0, kappa_tilde=3.0 * d)


def random(*shape, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


@pytest.mark.parametrize(
    "x",
    [
        random(40, 6) ** 3,
        random(40, 4) @ random(4, 6, seed=1),
        random(5, 12),
        random(12, 12),
        random(20, 3, 7),
        random(4, 3, 30),
        random(30, 1),
    ],
    ids=["plain", "low rank", "few examples", "square", "outputs", "few with outputs", "one feature"],
)
def test_equals_the_definitions(x):
    found = estimate_constants(x)
    assert_constants(found, **naive(x), rel=1e-6)
    assert_constants(estimate_constants(torch.from_numpy(x).float()), **naive(x), rel=1e-3)
    largest = max(np.linalg.norm(m, 2) ** 2 for m in (x if x.ndim == 3 else x[:, None]))
    assert largest * (1 + 1e-9) >= found.L1
    assert found.kappa_tilde <= found.L1 / found.mu * (1 + 1e-9)


def test_directions_that_are_all_but_zero_do_not_count():
    x = random(50, 3) * np.array([1.0, 0.1, 1e-4])
    found, without = estimate_constants(x), estimate_constants(x[:, :2])
    assert found.mu == pytest.approx(without.mu)
    assert found.kappa_tilde == pytest.approx(without.kappa_tilde)
    only = estimate_constants(x, cutoff=0.1)
    assert only.mu == only.L == pytest.approx(found.L)
    assert estimate_constants(x, cutoff=1e-12).mu < 1e-7


def test_independent_features_of_few_examples_know_only_their_number():
    """With all examples in general position, the whitened ones are orthogonal: κ̃ = n."""
    assert estimate_constants(random(9, 40)).kappa_tilde == pytest.approx(9)


def network():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Dropout(), nn.Linear(4, 3))


def test_tangent_features_are_the_gradients_of_each_output():
    model = network()
    model[1].bias.requires_grad_(False)
    x = torch.from_numpy(random(5, 2, 3)).float()
    found = tangent_features(model, x)
    assert model.training
    assert found.dtype == torch.float64
    trained = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for i, o in np.ndindex(5, 3):
        parts = torch.autograd.grad(model(x[i : i + 1])[0, o], trained)
        torch.testing.assert_close(found[i, o].float(), torch.cat([g.flatten() for g in parts]))
    torch.testing.assert_close(tangent_features(model, x.numpy(), chunk=2), found)


def test_tangent_features_of_a_linear_model_are_its_inputs():
    """However many outputs there are, and with a bias as one more input."""
    x = random(40, 5).astype(np.float32)
    linear = tangent_features(nn.Linear(5, 3, bias=False), x)
    assert linear.shape == (40, 3, 15)
    assert_constants(estimate_constants(linear), **vars(estimate_constants(x)), rel=1e-6)
    biased = estimate_constants(tangent_features(nn.Linear(5, 2), x))
    assert_constants(biased, **naive(np.hstack([x, np.ones((40, 1))])), rel=1e-5)


def test_constants_of_a_linearised_network():
    x = torch.from_numpy(random(30, 2, 3)).float()
    features = tangent_features(network(), x)
    assert features.shape == (30, 3, 43)
    assert_constants(estimate_constants(features), **naive(features.numpy()), rel=1e-4)


@pytest.mark.parametrize("m", [1, 2, 7, 100])
def test_batches_and_optimal_coefficients_are_the_papers(m):
    """η1 = 1/L_m, γ = (s - 1)/(s + 1) and η2 = η1 s/(s + 1) (1 - 1/κ̃_m) with s = √(κ_m κ̃_m)."""
    constants = Constants(L=2.0, L1=11.0, mu=0.01, kappa_tilde=8.0)
    L_m, kappa_tilde = 11 / m + (m - 1) * 2 / m, 8 / m + (m - 1) / m
    kappa, s = L_m / 0.01, math.sqrt(L_m / 0.01 * kappa_tilde)
    assert constants.at(m) == pytest.approx((L_m, kappa, kappa_tilde))
    optimizer = constants.mass(m)
    gamma, secondary = optimizer.coefficients()
    assert optimizer.lr == pytest.approx(1 / L_m)
    assert gamma == pytest.approx((s - 1) / (s + 1))
    assert secondary * optimizer.lr == pytest.approx(1 / L_m * s / (s + 1) * (1 - 1 / kappa_tilde))
    assert constants.mass_rate(m) == pytest.approx(1 - 1 / s)
    assert constants.sgd_rate(m) == pytest.approx(1 - 1 / kappa)
    assert constants.mass_rate(m) < constants.sgd_rate(m)


def test_a_full_batch_needs_no_compensation():
    """Nesterov's classical method: γ = (√κ - 1)/(√κ + 1), η2 = 0."""
    constants = Constants(L=2.0, L1=11.0, mu=0.02, kappa_tilde=8.0)
    assert constants.at(math.inf) == pytest.approx((2.0, 100.0, 1.0))
    gamma, secondary = constants.mass(math.inf).coefficients()
    assert gamma == pytest.approx(9 / 11)
    assert secondary == 0
    assert constants.mass(10**6).coefficients()[1] < 1e-5


def test_rounding_never_leaves_the_admitted_range():
    """Equal constants, which batches of three would push below 1 in another order of operations."""
    for value in (0.1, 0.7, 1.1):
        constants = Constants(L=value, L1=value, mu=value, kappa_tilde=1.0)
        assert all(constants.mass(m).coefficients() == (0.0, 0.0) for m in range(1, 50))


@pytest.mark.parametrize(
    "constants",
    [
        Constants(L=1.0, L1=6.0, mu=1e-4, kappa_tilde=60.0),
        Constants(L=1.0, L1=60.0, mu=1e-4, kappa_tilde=6.0),
        decoupled(512),
    ],
    ids=["κ̃ > L1/L", "κ̃ < L1/L", "equal"],
)
def test_steps_saved_by_batches_follow_the_regimes(constants):
    """Steps ∝ s(m): linear up to m1, like 1/√m up to m2, then √κ; each within a factor of two."""
    low, high = constants.critical_sizes()
    assert (low, high) == tuple(sorted((constants.L1, constants.kappa_tilde)))
    kappa = constants.L / constants.mu
    steps = lambda m: 1 / (1 - constants.mass_rate(m))
    between = (
        constants.L1 / constants.mu
        if constants.kappa_tilde <= constants.L1
        else kappa * constants.kappa_tilde
    )
    for m in range(1, 300):
        if m <= low:
            expected = steps(1) / m
        elif m < high:
            expected = math.sqrt(between / m)
        else:
            expected = math.sqrt(kappa)
        assert expected * (1 - 1e-9) <= steps(m) <= 2 * expected * (1 + 1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Constants(L=1.0, L1=0.5, mu=0.1, kappa_tilde=2.0), r"mu <= L <= L1.*L1=0\.5"),
        (lambda: Constants(L=1.0, L1=2.0, mu=3.0, kappa_tilde=2.0), r"mu=3\.0"),
        (lambda: Constants(L=1.0, L1=2.0, mu=0.1, kappa_tilde=0.5), r"kappa_tilde=0\.5"),
        (lambda: Constants(L=0.0, L1=2.0, mu=0.1, kappa_tilde=2.0), r"Constants\.L must be greater than 0"),
        (lambda: decoupled(32).at(0), "at least 1, got 0. Write math.inf"),
        (lambda: decoupled(32).mass(math.nan), "at least 1, got nan"),
        (lambda: estimate_constants(np.zeros((3, 2))), "not all zero"),
        (lambda: estimate_constants(np.ones(3)), r"got shape \[3\]"),
        (lambda: estimate_constants(np.array([[1.0, np.inf]])), "finite"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_constants_of_the_linear_model_on_real_digits():
    """Inputs on the unit sphere, so that L1 <= 1 up to float32; a rare pixel decides κ̃ where it may.

    Measured: L 0.486, L1 1.000; κ̃ is 1127 with all directions and 71 with those above 1e-3 L.
    """
    x = rs.data.UnitSphere(rs.data.Digits()).load().x_train
    found, main = estimate_constants(x), estimate_constants(x, cutoff=1e-3)
    for constants in (found, main):
        assert constants.mu < constants.L < constants.L1 <= 1 + 1e-6
        assert 1 < constants.kappa_tilde < constants.L1 / constants.mu
        assert constants.mass_rate(16) < constants.sgd_rate(16)
    assert main.kappa_tilde < found.kappa_tilde / 2
