"""The Gaussian mechanism: DP-FedAvg against a naive one, the size of the noise, and what is refused."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch.nn import functional as F

import raysim as rs
from raysim.core import streams
from raysim.core.cohorts import cohort_ids
from raysim.core.interfaces import Rule
from raysim.core.sending import Sender
from raysim.runtime.coordinator import Coordinator
from tests.experiments import digits

AdaptiveClip, Clip, Gaussian = rs.privacy.AdaptiveClip, rs.privacy.Clip, rs.privacy.GaussianMechanism
UNIFORM = rs.rules.Averaging(weighting="uniform")
flat = torch.nn.utils.parameters_to_vector


def gaussian(z=0.5, norm=1.0, **fields):
    return Gaussian(**({"noise_multiplier": z, "clip": Clip(norm=norm), "delta": 1e-5} | fields))


# ---- against a naive implementation ----------------------------------------------------------------------------


def naive(sim, z, S, at, uniform):
    """McMahan et al. 2018 with cohorts of a fixed size, client by client; the noise is what the streams hold."""
    data = sim.data.load()
    shares, model = sim.partition.split(data, sim.seed), sim.initial_model()
    x = flat(model.parameters()).detach()

    def trained(start, index):
        y = start.clone()
        for _ in range(2):
            torch.nn.utils.vector_to_parameters(y.clone(), model.parameters())
            images, labels = torch.from_numpy(data.x_train[index]), torch.from_numpy(data.y_train[index])
            loss = F.cross_entropy(model(images), labels)
            y = y - 0.2 * flat(torch.autograd.grad(loss, model.parameters()))
        return y

    for round in range(sim.rounds):
        ids = cohort_ids(sim.seed, round, len(shares), sim.cohort)
        sizes = np.array([1 if uniform else len(shares[i]) for i in ids])
        mean = torch.zeros_like(x)
        for i, share in zip(ids, sizes / sizes.sum(), strict=True):
            row = trained(x, shares[i]) - x
            row = row * min(1.0, S / float(row.norm()))
            if at == "client":
                key = streams.key(sim.seed, round, "client", int(i), "uplink.local_update.0.0")
                row = row + z * S * streams.normal(streams.key(streams.key(key, "noise"), 0), len(x))
            mean += float(share) * row
        if at == "server":
            key = streams.key(streams.key(sim.seed, round, "uplink", 0), "noise", 0)
            mean += z * S * float(sizes.max() / sizes.sum()) * streams.normal(streams.key(key, 0), len(x))
        x = x + mean
    return x


@pytest.mark.parametrize("at", ["server", "client"])
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_equals_naive_over_twenty_rounds(at, weighting):
    z, S = (0.05, 0.3) if at == "server" else (0.01, 0.3)
    sim = digits(
        model=rs.models.MLP(hidden=(16,), activation="tanh"),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.2), steps=2),
        rule=rs.rules.Averaging(weighting=weighting),
        uplink=(gaussian(z, S, at=at),),
        rounds=20,
    )
    expected = naive(sim, z, S, at, weighting == "uniform")
    for block in (1, 3, 8):
        result = sim.replaced(execution=rs.Execution(block=block)).run(None)
        torch.testing.assert_close(result.x_P, expected, rtol=1e-4, atol=1e-4)
        assert result.metrics["clipped"].iloc[-1] > 0


# ---- the noise -------------------------------------------------------------------------------------------------


def at_rest(rule, *uplink, sizes=(4,) * 6, **changes):
    """Clients whose gradients are all zero, 1000 parameters: whatever moves is noise."""
    x, y = np.zeros((sum(sizes), 200), np.float32), np.zeros((sum(sizes), 5), np.float32)
    shares = [np.arange(n) + sum(sizes[:i]) for i, n in enumerate(sizes)]
    fields = {
        "data": rs.data.Arrays(x_train=x, y_train=y, x_test=x, y_test=y),
        "partition": rs.partitions.Explicit(indices=shares),
        "model": rs.models.Linear(bias=False),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1),
        "rounds": 4,
    }
    return rs.Simulation(**(fields | changes), rule=rule, uplink=uplink)


def assert_normal(noise, std):
    """Mean and variance of independent N(0, std²), by bounds that are passed all but once in 10^8 times."""
    n = noise.numel()
    assert abs(float(noise.double().mean())) < 5.7 * std / np.sqrt(n)
    low, high = chi2.ppf([1e-8, 1 - 1e-8], n)
    assert low < float(noise.double().square().sum()) / std**2 < high


def moved(sim):
    """What each round added to the model, [rounds, P]."""
    coordinator = Coordinator(sim, None)
    server, steps = coordinator._prepare(), []
    for number in range(sim.rounds):
        clients = coordinator._clients(server)
        after = clients.settled(sim.rule.round(clients, server))
        steps.append(after.x_P - server.x_P)
        server = type(server)(after.x_P, number + 1, after.state)
    return torch.stack(steps)


def assert_unlike(rows):
    """Rows of noise that have nothing to do with each other."""
    assert torch.corrcoef(rows.double()).fill_diagonal_(0).abs().max() < 6 / np.sqrt(rows.shape[1])


@pytest.mark.parametrize(("cohort", "z", "S"), [(None, 2.0, 0.5), (3, 0.1, 4.0)])
def test_the_server_adds_noise_of_z_s_over_the_cohort(cohort, z, S):
    steps_RP = moved(at_rest(UNIFORM, gaussian(z, S), cohort=cohort))
    assert_normal(steps_RP, z * S / (cohort or 6))
    assert_unlike(steps_RP)


def test_noise_is_made_for_the_largest_weight():
    sizes = (2, 3, 4, 1, 10)
    assert_normal(moved(at_rest(rs.rules.Averaging(), gaussian(2.0, 0.5), sizes=sizes)), 2.0 * 0.5 / 2)


def test_clients_noise_averages_out():
    steps_RP = moved(at_rest(UNIFORM, gaussian(2.0, 0.5, at="client")))
    assert_normal(steps_RP, 2.0 * 0.5 / np.sqrt(6))
    assert_unlike(steps_RP)


def alone(C, P=1000, reports=None):
    report = (lambda name, value_C: None) if reports is None else reports.__setitem__
    memory = lambda name, fill_P: pytest.fail("nothing is kept")
    return Sender(np.arange(C), streams.key(0, torch.arange(C)), memory, [torch.Size([P])], report=report)


def test_every_row_has_noise_of_its_own_in_any_block():
    P = 70_000  # more than gets noise at once
    mechanism, x_CP = gaussian(2.0, 0.5, at="client"), streams.normal(streams.key(1), 8, P)
    sent_CP, bits = mechanism.apply(x_CP.clone(), alone(8, P))
    noise_CP = sent_CP - x_CP * (0.5 / x_CP.norm(dim=1, keepdim=True))
    for noise_P in noise_CP:
        assert_normal(noise_P, 1.0)
    assert_unlike(noise_CP)
    assert_unlike(noise_CP[:, 65_536:])
    assert_unlike(torch.stack([noise_CP[0, :4464], noise_CP[0, 65_536:]]))
    assert bits is None
    for block in (1, 3):
        senders = [alone(8) for _ in range(0, 8, block)]
        for i, s in enumerate(senders):
            s.key_C = s.key_C[i * block : (i + 1) * block]
        pieces = [mechanism.apply(x.clone(), s)[0] for x, s in zip(x_CP.split(block), senders, strict=True)]
        assert torch.equal(torch.cat(pieces), sent_CP)


def test_noise_is_unbiased_and_clipping_alone_is_what_remains():
    """Over 400 rounds the mean of what is received is the clipped row."""
    x_CP = torch.ones(1, 50) * 3
    total_P = torch.zeros(50)
    for round in range(400):
        sender = alone(1)
        sender.key_C = streams.key(round, torch.arange(1))
        total_P += gaussian(1.0, 2.0, at="client").apply(x_CP.clone(), sender)[0][0]
    expected = 2 / np.sqrt(50)
    assert (total_P / 400 - expected).abs().max() < 5 * 2.0 / np.sqrt(400)
    assert_normal(total_P / 400 - expected, 2.0 / np.sqrt(400))


def nothing(cohort, x_P):
    return torch.zeros(len(cohort), len(x_P))


def nothing_twice(cohort, x_P):
    return nothing(cohort, x_P), nothing(cohort, x_P)


@dataclass(frozen=True)
class Several(Rule):
    """Four rows a round: a function's two parts, and the same function two times."""

    def round(self, clients, server):
        parts = clients.sum(nothing_twice, server.x_P)
        again = [clients.mean(nothing, server.x_P, uniform=True) for _ in range(2)]
        return server.at(server.x_P, got=torch.stack([*parts, *again]))


@pytest.mark.parametrize("at", ["server", "client"])
def test_all_rows_of_a_round_have_noise_of_their_own(at):
    coordinator = Coordinator(at_rest(Several(), gaussian(2.0, 0.5, at=at)), None)
    server = coordinator._prepare()
    clients = coordinator._clients(server)
    got_4P = clients.settled(Several().round(clients, server)).state["got"]
    for row_P, std in zip(got_4P, (1, 1, 1 / 6, 1 / 6), strict=True):
        assert_normal(row_P, std if at == "server" else np.sqrt(6) * std)
    assert_unlike(got_4P)


def test_what_is_not_finite_is_sent_as_zero():
    x_CP = torch.ones(4, 1000)
    x_CP[1, 7], x_CP[2, 7], x_CP[3, 7] = torch.nan, torch.inf, -torch.inf
    sent_CP, _ = gaussian(1.0, 2.0).apply(x_CP, alone(4))
    assert sent_CP[0].norm() == pytest.approx(2.0, rel=1e-5)
    assert (sent_CP[1:] == 0).all()


# ---- what is refused -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gathers(Rule):
    """Looks at single rows, and may say so."""

    gathers: ClassVar[bool] = True

    def round(self, clients, server):
        rows_CP = clients.rows(nothing, server.x_P)
        return server.at(server.x_P + rows_CP.median(0).values)


@dataclass(frozen=True)
class Secretly(Gathers):
    gathers: ClassVar[bool] = False


def test_rules_that_look_at_single_rows_need_noise_at_the_client():
    with pytest.raises(
        rs.ConfigError, match=r"the rule Gathers looks at single clients' rows\. Use at='client'"
    ):
        at_rest(Gathers(), gaussian()).run(None)
    with pytest.raises(rs.ConfigError, match="noised 0 means or sums, but clients sent 1 rows each"):
        at_rest(Secretly(), gaussian()).run(None)
    noised = at_rest(Gathers(), gaussian(at="client"), rounds=2).run(None)
    assert noised.metrics["epsilon"].iloc[-1] > 0


@pytest.mark.parametrize("at", ["server", "client"])
def test_numbers_beside_the_rows_are_refused(at):
    with pytest.raises(rs.ConfigError, match=r"clients also send \(1,\) numbers in normalised_update"):
        digits(rule=rs.rules.FedNova(), uplink=(gaussian(at=at),)).run(None)


def test_nothing_may_change_rows_before_the_server_adds_its_noise():
    topk = rs.compressors.TopK(fraction=0.5)
    with pytest.raises(
        rs.ConfigError, match=r"GaussianMechanism must be the last .* but TopK comes after it"
    ):
        digits(uplink=(gaussian(), topk)).run(None)
    for uplink in ((topk, gaussian()), (gaussian(at="client"), topk)):
        assert digits(uplink=uplink, rounds=1).run(None).x_P.isfinite().all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gaussian(0.0), "without noise there is no guarantee. Write Clip alone in Simulation.uplink"),
        (lambda: gaussian(-1.0), "noise_multiplier must be greater than or equal to 0"),
        (lambda: gaussian(delta=0.0), "GaussianMechanism.delta must be greater than 0"),
        (lambda: gaussian(delta=1.0), "GaussianMechanism.delta must be less than 1"),
        (lambda: gaussian(at="sum"), "GaussianMechanism.at must be 'server' or 'client'"),
        (lambda: gaussian(clip=gaussian()), "clip must be Clip or AdaptiveClip, got GaussianMechanism"),
        (
            lambda: gaussian(clip=AdaptiveClip(initial=1.0)),
            "AdaptiveClip.noise must be above 0 in a Gaussian",
        ),
        (
            lambda: gaussian(clip=AdaptiveClip(initial=1.0, noise=1.0), at="client"),
            "Use Clip, or at='server'",
        ),
    ],
)
def test_what_would_protect_nobody_is_refused(make, words):
    with pytest.raises(rs.ConfigError) as error:
        make()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
